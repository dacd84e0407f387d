//! A catalog on stores of its own, who calls it, and what is sent to it.

use anyhow::Context as _;
use mercato_catalog::{Catalog, seed};
use mercato_chassis::{
    error::{Fault, Refusal},
    outbox::{self, Event},
    pg::Db,
};
use mercato_contracts::mercato::{
    catalog::v1::{self as proto, product_lookup_service_client::ProductLookupServiceClient, product_service_client::ProductServiceClient},
    inventory::v1::InventoryUpdated,
    r#type::v1::{Attribute, Money},
};
use mercato_testkit::{Actor, Customer, Guest, LONG, Patient, Sandbox, Staff};
use prost_types::FieldMask;
use rdkafka::{
    ClientConfig, Message,
    consumer::{Consumer, StreamConsumer},
    message::Headers,
};
use std::{collections::HashSet, time::Duration};
use tonic::{Request, Status, transport::Channel};
use uuid::Uuid;

/// A running catalog.
pub struct Shop {
    sandbox: Sandbox,
    staff: Staff,
    customer: Customer,
    /// The catalog's database, to write what a test needs.
    db: Db,
}

impl Shop {
    /// A catalog of its own.
    pub async fn open() -> anyhow::Result<Shop> {
        let sandbox = Sandbox::of(vec![Box::new(Catalog)]).start().await?;
        let db = sandbox.db("catalog").await;
        Ok(Shop { sandbox, staff: Staff::new(), customer: Customer::new(), db })
    }

    /// Another process of the same catalog.
    pub async fn second_instance(&self) -> anyhow::Result<Shop> {
        let mut builder = Sandbox::of(vec![Box::new(Catalog)]).env("CATALOG_DATABASE_URL", self.sandbox.database_url("catalog"));
        for shared in ["MERCATO_TOPIC_PREFIX", "MERCATO_PEER_SECRET"] {
            builder = builder.env(shared, self.sandbox.env().get(shared).context(shared)?);
        }
        Ok(Shop { sandbox: builder.start().await?, staff: Staff::new(), customer: Customer::new(), db: self.db.clone() })
    }

    /// Ends it; fails when something did not end by itself.
    pub async fn close(self) -> anyhow::Result<()> {
        self.db.close().await;
        anyhow::ensure!(self.sandbox.stop().await, "the catalog did not stop in time");
        Ok(())
    }

    pub fn products(&self) -> ProductServiceClient<Patient> {
        ProductServiceClient::new(self.sandbox.patient())
    }

    /// The same, but each call is made once.
    pub fn products_once(&self) -> ProductServiceClient<Channel> {
        ProductServiceClient::new(self.sandbox.channel())
    }

    pub fn lookup(&self) -> ProductLookupServiceClient<Patient> {
        ProductLookupServiceClient::new(self.sandbox.patient())
    }

    pub fn staff<M>(&self, message: M, key: String) -> Request<M> {
        keyed(&self.staff, message, &key)
    }

    pub fn customer<M>(&self, message: M, key: String) -> Request<M> {
        keyed(&self.customer, message, &key)
    }

    pub fn guest<M>(&self, message: M, key: String) -> Request<M> {
        keyed(&Guest, message, &key)
    }

    pub fn peer<M>(&self, message: M) -> Request<M> {
        self.sandbox.peer("ordering").request_without_key(message)
    }

    pub async fn get(&self, product_id: &str) -> Result<proto::Product, Status> {
        let request = proto::GetProductRequest { product_id: product_id.to_owned() };
        Ok(self.products().get_product(request).await?.into_inner())
    }

    pub async fn seed(&self, n: usize) -> anyhow::Result<Vec<Uuid>> {
        Ok(seed::seed(&self.db, n, |_| ()).await?)
    }

    /// Sends an event as inventory would, through an outbox to Kafka.
    pub async fn inventory_says(&self, product_id: &str, sequence: i64, available: i64, version: i64) -> anyhow::Result<()> {
        let payload = InventoryUpdated { product_id: product_id.to_owned(), available, version };
        let event = Event::new("inventory", "inventory.updated", Uuid::parse_str(product_id)?, sequence, &payload);
        self.db
            .uow_within::<_, Fault, _>(LONG, move |tx| {
                let event = event.clone();
                Box::pin(async move { outbox::append(tx, &[event]).await })
            })
            .await?;
        Ok(())
    }

    /// Waits until the catalog has taken this version of a product's stock, or a later one.
    pub async fn heard(&self, product_id: &str, version: i64) -> anyhow::Result<()> {
        let product = Uuid::parse_str(product_id)?;
        let pool = self.sandbox.pool("catalog").await;
        mercato_testkit::eventually("the event of inventory", LONG, async || {
            let known: Result<Option<i64>, _> =
                sqlx::query_scalar("select version from product_stock where product_id = $1").bind(product).fetch_optional(pool).await;
            known.ok().flatten().filter(|known| *known >= version).map(|_| ())
        })
        .await;
        Ok(())
    }

    /// The events of a product in topic `catalog` up to this number: their sequence and kind.
    pub async fn events(&self, product_id: &str, up_to: i64) -> anyhow::Result<Vec<(i64, String)>> {
        let env = self.sandbox.env();
        let topic = format!("{}catalog", env.get("MERCATO_TOPIC_PREFIX").context("no prefix")?);
        let consumer: StreamConsumer = ClientConfig::new()
            .set("bootstrap.servers", env.get("KAFKA_BROKERS").context("no brokers")?)
            .set("group.id", format!("{topic}.{}", Uuid::now_v7()))
            .set("auto.offset.reset", "earliest")
            .create()?;
        consumer.subscribe(&[&topic])?;
        let (mut events, mut known) = (Vec::new(), HashSet::new());
        while events.last().is_none_or(|(sequence, _)| *sequence < up_to) {
            let message = tokio::time::timeout(LONG, consumer.recv()).await.context("no event")??;
            let header = |name: &str| -> Option<String> {
                let value = message.headers()?.iter().find(|header| header.key == name)?.value?;
                String::from_utf8(value.to_vec()).ok()
            };
            // A relay that lost its lease sends again what it had sent.
            if header("ce_subject").as_deref() == Some(product_id) && known.insert(header("ce_id")) {
                events.push((header("ce_sequence").context("no sequence")?.parse()?, header("ce_type").context("no type")?));
            }
        }
        Ok(events)
    }
}

fn keyed<M>(actor: &impl Actor, message: M, key: &str) -> Request<M> {
    if key.is_empty() { actor.request_without_key(message) } else { actor.request_with_key(message, key) }
}

/// Waits until it is so.
pub async fn becomes(what: &str, mut so: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let wait = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !so().await? {
            ticks.tick().await;
        }
        Ok(())
    };
    tokio::time::timeout(LONG, wait).await.with_context(|| what.to_owned())?
}

/// A fresh idempotency key.
pub fn key() -> String {
    Uuid::now_v7().to_string()
}

pub fn eur(amount: &str) -> Money {
    Money { currency_code: "EUR".into(), amount: amount.into() }
}

pub fn kettle() -> proto::CreateProductRequest {
    proto::CreateProductRequest {
        name: "Kettle".into(),
        description: "Boils water.".into(),
        price: Some(eur("29.90")),
        category: "kitchen".into(),
        tags: vec!["steel".into(), "kettle".into()],
        attributes: vec![Attribute { name: "colour".into(), value: "red".into() }],
        images: vec!["/images/kettle.png".into()],
        hidden: false,
    }
}

pub fn mask(fields: &[&str]) -> Option<FieldMask> {
    Some(FieldMask { paths: fields.iter().map(ToString::to_string).collect() })
}

pub fn patch(patch: proto::ProductPatch, of: &proto::Product, update_mask: Option<FieldMask>) -> proto::UpdateProductRequest {
    proto::UpdateProductRequest { product_id: of.id.clone(), product: Some(patch), update_mask }
}

/// The reason of a refusal.
pub fn reason(status: &Status) -> String {
    Refusal::of(status).reason
}
