//! Reads and counts stock.

use crate::{
    convert,
    error::Error,
    events,
    store::stock::{self, Change, Level},
};
use chassis::{
    cache::Cache,
    error::Fault,
    grpc::client::{Peer, peer_fault},
    idempotency::{self, Answer, Key},
    outbox,
    pg::Db,
};
use mercato_chassis as chassis;
use mercato_contracts::mercato::{
    catalog::v1::{BatchGetProductsRequest, product_lookup_service_client::ProductLookupServiceClient},
    inventory::v1 as proto,
};
use std::sync::Arc;
use uuid::Uuid;

/// A page of a product's ledger.
pub struct Page {
    /// The changes, newest first.
    pub changes: Vec<Change>,
    /// Where the next page begins, if there is one.
    pub next: Option<i64>,
}

/// Reads and counts stock. Clones share the cache.
#[derive(Clone)]
pub struct StockKeeper {
    /// The database.
    pub db: Db,
    /// The way to the catalog.
    pub catalog: Peer,
    /// Availability by product id, a second old at most.
    pub cache: Cache<proto::ProductStock>,
}

impl StockKeeper {
    /// Availability of a product over all warehouses; zero for one that never had stock.
    pub async fn get(&self, product: Uuid) -> Result<proto::ProductStock, Error> {
        let load = async { stock::levels(self.db.read(), product).await.map(|levels| convert::product_stock(product, levels)) };
        self.cache.get_with(&product.to_string(), load).await.map_err(|fault| Error::Fault(fault.again()))
    }

    /// Sets the counted level in a warehouse, once for each key.
    pub async fn set(&self, key: &Key, product: Uuid, warehouse: &str, level: i64) -> Result<Answer<proto::Stock>, Error> {
        match idempotency::find::<proto::Stock>(&self.db, key).await? {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(refusal)) => return Err(Fault::Replayed(Box::new(refusal)).into()),
            None => {}
        }
        self.must_exist(product).await?;
        let warehouse: Arc<str> = warehouse.into();
        let answer = idempotency::once(&self.db, key, move |tx| {
            let warehouse = Arc::clone(&warehouse);
            Box::pin(async move { count(tx, product, &warehouse, level).await })
        })
        .await?;
        self.forget(&[product]);
        Ok(answer)
    }

    /// A page of a product's ledger, newest first: rows before the row `before`, at most `limit`.
    pub async fn changes(&self, product: Uuid, before: Option<i64>, limit: usize) -> Result<Page, Error> {
        let asked = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let mut changes = stock::changes(self.db.read(), product, before.unwrap_or(i64::MAX), asked).await?;
        let more = changes.len() > limit;
        changes.truncate(limit);
        let next = changes.last().filter(|_| more).map(|last| last.id);
        Ok(Page { changes, next })
    }

    /// Drops what is cached about these products.
    pub fn forget(&self, products: &[Uuid]) {
        for product in products {
            self.cache.invalidate(&product.to_string());
        }
    }

    async fn must_exist(&self, product: Uuid) -> Result<(), Error> {
        let request = BatchGetProductsRequest { product_ids: vec![product.to_string()] };
        let mut catalog = ProductLookupServiceClient::new(self.catalog.clone());
        let found = catalog.batch_get_products(request).await.map_err(|status| peer_fault(status, "catalog"))?.into_inner();
        if found.products.is_empty() { Err(Error::ProductUnknown(product)) } else { Ok(()) }
    }
}

async fn count(tx: &mut sqlx::PgConnection, product: Uuid, warehouse: &str, level: i64) -> Result<proto::Stock, Error> {
    let version = stock::lock_product(tx, product).await?;
    let (on_hand, available) = stock::lock_level(tx, product, warehouse).await?;
    let reserved = on_hand - available;
    if level < reserved {
        return Err(Error::LevelBelowReserved { product, reserved });
    }
    let counted: Level = stock::set_level(tx, product, warehouse, level, reserved, level - on_hand).await?;
    let available = stock::available(tx, product).await?;
    outbox::append(tx, &[events::updated(product, available, version)]).await?;
    Ok(convert::stock(product, counted))
}
