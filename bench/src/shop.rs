//! What the scenarios need of the shop: products, customers with tokens, stock. All of it through the edge, as any client has it.

use crate::Settings;
use crate::peer;
use crate::rest::{Ask, Connection};
use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use mercato_contracts::mercato::catalog::v1::product_service_client::ProductServiceClient;
use mercato_contracts::mercato::catalog::v1::{ListProductsRequest, ListProductsResponse, Product};
use serde::Deserialize;
use serde_json::json;
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use uuid::Uuid;

/// Password hashing takes a core for a while; more at once would only queue.
const SIGN_INS: usize = 4;
const PAGE: i32 = 100;

/// How long a shop that was just filled may take to tell its catalog what is in stock.
const FILLING: Duration = Duration::from_secs(60);

/// Up to `most` products that can be ordered, as the list offers them. Waits for a shop that was just filled.
pub async fn products(url: &str, most: usize) -> anyhow::Result<Vec<Product>> {
    let mut client = ProductServiceClient::new(peer::connect(url).await?);
    let end = Instant::now() + FILLING;
    loop {
        let found = sellable(&mut client, most).await?;
        if found.len() == most || (Instant::now() > end && !found.is_empty()) {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < end, "the shop has nothing to order");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn sellable(client: &mut ProductServiceClient<Channel>, most: usize) -> anyhow::Result<Vec<Product>> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    while found.len() < most {
        let page = ListProductsRequest { page_size: PAGE, page_token, ..ListProductsRequest::default() };
        let page = client.list_products(page).await.context("the list of products")?.into_inner();
        found.extend(page.products.into_iter().filter(|p| p.sellable && p.stock > 0));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    found.truncate(most);
    Ok(found)
}

/// Products on one of the [`pages`].
pub const SIZE: i32 = 20;

/// A page of the list of products, and the token that asks for it.
pub struct Page {
    /// Empty for the first page.
    pub token: String,
    /// What it answers.
    pub answer: ListProductsResponse,
}

/// The first full pages of the list, up to `most`.
pub async fn pages(url: &str, most: usize) -> anyhow::Result<Vec<Page>> {
    let mut client = ProductServiceClient::new(peer::connect(url).await?);
    let mut pages: Vec<Page> = Vec::new();
    let mut token = String::new();
    while pages.len() < most {
        let page = ListProductsRequest { page_size: SIZE, page_token: token.clone(), ..ListProductsRequest::default() };
        let answer = client.list_products(page).await.context("the list of products")?.into_inner();
        let next = answer.next_page_token.clone();
        if next.is_empty() {
            break;
        }
        pages.push(Page { token: std::mem::replace(&mut token, next), answer });
    }
    Ok(pages)
}

/// The tokens of `count` new customers.
pub async fn customers(url: &str, count: u32) -> anyhow::Result<Vec<String>> {
    let run = Uuid::now_v7().simple().to_string();
    let password = Uuid::now_v7().to_string();
    stream::iter(0..count)
        .map(|n| {
            let name = format!("bench-{run}-{n}");
            let password = &password;
            async move {
                let mut connection = Connection::to(url);
                let email = format!("{name}@example.com");
                let account = json!({ "username": name, "email": email, "password": password }).to_string();
                let made = connection.send_patiently(&Ask::change(Method::POST, "/api/customers", account)).await?;
                anyhow::ensure!(made.status.is_success(), "registering: {} {}", made.status, made.text());
                sign_in(&mut connection, &email, password).await
            }
        })
        .buffer_unordered(SIGN_INS)
        .try_collect()
        .await
}

#[derive(Deserialize)]
struct Tokens {
    access_token: String,
}

/// The token of somebody with an account.
pub async fn sign_in(connection: &mut Connection, email: &str, password: &str) -> anyhow::Result<String> {
    let body = json!({ "email": email, "password": password }).to_string();
    let answer = connection.send_patiently(&Ask::change(Method::POST, "/auth/login", body)).await?;
    Ok(answer.json::<Tokens>().context("signing in")?.access_token)
}

/// The token of whoever may set stock.
pub async fn staff(settings: &Settings) -> anyhow::Result<String> {
    sign_in(&mut Connection::to(&settings.url), &settings.staff_email, &settings.staff_password).await.context("staff")
}

/// Sets how many units there are.
pub async fn set_stock(url: &str, token: &str, product: &str, units: u32) -> anyhow::Result<()> {
    let path = format!("/api/inventory/{product}");
    let body = json!({ "stockLevel": units, "warehouseId": "main" }).to_string();
    let answer = Connection::to(url).send_patiently(&Ask::change(Method::PUT, &path, body).by(token)).await?;
    anyhow::ensure!(answer.status.is_success(), "setting stock: {} {}", answer.status, answer.text());
    Ok(())
}

/// What there is of a product.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stock {
    /// Units that can still be ordered.
    pub available: i64,
    /// Units in all warehouses, those promised to orders included.
    pub stock_level: i64,
}

impl Stock {
    /// Units that are promised to orders.
    pub fn held(self) -> i64 {
        self.stock_level - self.available
    }
}

/// What there is of a product; up to about a second old.
pub async fn stock(url: &str, product: &str) -> anyhow::Result<Stock> {
    let path = format!("/api/inventory/{product}");
    Connection::to(url).send(&Ask::get(&path)).await?.json().context("stock")
}

/// Units that can still be ordered.
pub async fn available(url: &str, product: &str) -> anyhow::Result<i64> {
    Ok(stock(url, product).await?.available)
}

/// Waits until so many units are said to be available; what is said in the end.
pub async fn await_available(url: &str, product: &str, wanted: i64, patience: Duration) -> anyhow::Result<i64> {
    let began = Instant::now();
    loop {
        let available = available(url, product).await?;
        if available == wanted || began.elapsed() > patience {
            return Ok(available);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
