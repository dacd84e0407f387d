//! `mercato smoke`: whether a shop does its main job, seen from outside. A customer signs in, places an order through the door and waits until
//! it is paid. What `helm test` and a pipeline run after a release.

use anyhow::{Context, bail};
use clap::Args;
use mercato_chassis::config::{Source, process_env};
use mercato_chassis::ids;
use mercato_contracts::mercato::catalog::v1::{ListProductsRequest, product_service_client::ProductServiceClient};
use mercato_contracts::mercato::customer::v1::{LoginRequest, auth_service_client::AuthServiceClient};
use mercato_contracts::mercato::ordering::v1::{
    GetOrderRequest, Order, PlaceOrderItem, PlaceOrderRequest, order::Status, order_service_client::OrderServiceClient,
};
use mercato_contracts::mercato::r#type::v1::Address;
use secrecy::ExposeSecret;
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request};

/// Between two looks at the order.
const PAUSE: Duration = Duration::from_millis(200);
/// Times the same order is asked for again, with the same key, when the answer is lost.
const AGAIN: u32 = 3;

/// What to order, and where.
#[derive(Debug, Args)]
pub struct Smoke {
    /// The door, such as `http://127.0.0.1:8080`. Sign-in: MERCATO_SMOKE_EMAIL and MERCATO_SMOKE_PASSWORD (or ..._FILE).
    #[arg(long)]
    url: String,
    /// The product; the first one with stock when absent.
    #[arg(long)]
    product: Option<String>,
    /// The provider's token for a means of payment; the method alone when absent.
    #[arg(long, default_value = "")]
    payment_token: String,
    /// Seconds all of it may take.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Runs it and tells each step with its time on standard output.
pub async fn run(smoke: Smoke) -> anyhow::Result<()> {
    let limit = Duration::from_secs(smoke.seconds);
    tokio::time::timeout(limit, buy(&smoke)).await.with_context(|| format!("not done after {limit:?}"))?
}

async fn buy(smoke: &Smoke) -> anyhow::Result<()> {
    let mut source = Source::new(process_env());
    let email = source.secret("MERCATO_SMOKE_EMAIL", "e-mail address of a customer");
    let password = source.secret("MERCATO_SMOKE_PASSWORD", "password of the customer");
    if !source.errors().is_empty() {
        bail!("{}", source.errors().join("\n"));
    }
    let began = Instant::now();
    let told = |what: &str| println!("{:>6} ms  {what}", began.elapsed().as_millis());
    let channel = Channel::from_shared(smoke.url.clone())?.connect().await.with_context(|| format!("{} cannot be reached", smoke.url))?;
    let login =
        LoginRequest { email: email.expose_secret().to_owned(), password: password.expose_secret().to_owned(), ..LoginRequest::default() };
    let tokens = AuthServiceClient::new(channel.clone()).login(login).await.context("sign-in")?.into_inner();
    told("signed in");
    let token: MetadataValue<Ascii> = format!("Bearer {}", tokens.access_token).parse().context("the token is no header")?;
    let product = match &smoke.product {
        Some(id) => id.clone(),
        None => in_stock(channel.clone()).await?,
    };
    let mut buyer = Buyer { orders: OrderServiceClient::new(channel), token };
    let order = buyer.place(&product, &smoke.payment_token).await?;
    told(&format!("placed order {} of product {product}: {}", order.id, order.status().as_str_name()));
    buyer.until_paid(&order.id).await?;
    told("it is paid");
    Ok(())
}

async fn in_stock(channel: Channel) -> anyhow::Result<String> {
    let page = ListProductsRequest { page_size: 100, ..ListProductsRequest::default() };
    let products = ProductServiceClient::new(channel).list_products(page).await.context("listing products")?.into_inner().products;
    let found = products.into_iter().find(|product| product.sellable && product.stock > 0);
    Ok(found.context("none of the first 100 products is in stock: name one with --product")?.id)
}

struct Buyer {
    orders: OrderServiceClient<Channel>,
    token: MetadataValue<Ascii>,
}

impl Buyer {
    fn signed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }

    fn keyed<T>(&self, message: T, key: &str) -> anyhow::Result<Request<T>> {
        let mut request = self.signed(message);
        request.metadata_mut().insert("idempotency-key", key.parse().context("the key is no header")?);
        Ok(request)
    }

    /// Places the order, again with the same key when the answer is lost: the shop promises that this is one order.
    async fn place(&mut self, product: &str, payment_token: &str) -> anyhow::Result<Order> {
        let request = PlaceOrderRequest {
            items: vec![PlaceOrderItem { product_id: product.to_owned(), quantity: 1, ..PlaceOrderItem::default() }],
            shipping_address: Some(Address {
                street: "Hauptstrasse 5".into(),
                city: "Koeln".into(),
                zip_code: "50667".into(),
                ..Address::default()
            }),
            payment_method: "credit_card".into(),
            payment_token: payment_token.to_owned(),
            ..PlaceOrderRequest::default()
        };
        let key = ids::new().to_string();
        let mut tries = 0;
        loop {
            let keyed = self.keyed(request.clone(), &key)?;
            match self.orders.place_order(keyed).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if tries < AGAIN && matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown) => {
                    tries += 1;
                    println!("           asked again: {}", status.message());
                    tokio::time::sleep(PAUSE).await;
                }
                Err(status) => return Err(status).context("placing an order"),
            }
        }
    }

    /// Looks at the order until it is paid; fails when it never will be.
    async fn until_paid(&mut self, order_id: &str) -> anyhow::Result<()> {
        loop {
            let request = self.signed(GetOrderRequest { order_id: order_id.to_owned() });
            let order = self.orders.get_order(request).await.context("reading the order")?.into_inner();
            match order.status() {
                Status::Paid | Status::Completed => return Ok(()),
                Status::Cancelled | Status::NeedsOperator => bail!("order {order_id} is {}", order.status().as_str_name()),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
