//! Products ready to be shown. A product's content changes rarely and is cached in memory and in Redis; its stock changes with every order
//! and is kept apart, so that an order never throws a product out of the cache. Both follow the events: contents are dropped by events of
//! `catalog`, stock is set by events of `inventory`. What a lost event leaves behind lives no longer than the cache's time to live.

use crate::{
    config::Config,
    convert,
    domain::product::version,
    store::{
        list, products,
        stock::{self, Level},
    },
};
use chassis::{batch::Batcher, cache::Cache, error::Fault, pg::Db, redis::Redis, tasks::Tasks};
use futures_util::FutureExt;
use mercato_chassis as chassis;
use mercato_contracts::mercato::catalog::v1 as proto;
use moka::{ops::compute::Op, sync::Cache as Memory};
use std::{collections::HashMap, time::Duration};
use uuid::Uuid;

/// How much longer Redis keeps a product than memory does.
const REDIS_KEEPS: u32 = 5;
/// Loads that may wait; more are shed. Forty calls of 200 unknown products.
const WAITING: usize = 8192;
/// Products loaded by one query.
const BATCH: usize = 256;
/// For how long the number of products in each category is kept.
const CATEGORIES_TTL: Duration = Duration::from_secs(2);

/// Products by id.
type Load<V> = Batcher<Uuid, Result<Option<V>, Fault>>;

/// Why there is nothing to cache.
enum Absent {
    /// The product is not in the shop.
    Product,
    /// It could not be read.
    Fault(Fault),
}

/// The shelf.
pub struct Shelf {
    db: Db,
    contents: Cache<proto::Product>,
    content: Load<proto::Product>,
    /// The version each product that changed has at least; guards against contents that were read or stored before the change.
    versions: Memory<Uuid, i64>,
    levels: Memory<Uuid, Level>,
    level: Load<Level>,
    categories: Cache<proto::ListCategoriesResponse>,
}

impl Shelf {
    /// An empty shelf over this database.
    pub fn new(db: &Db, redis: Option<Redis>, tasks: &Tasks, config: &Config) -> Shelf {
        let redis_ttl = config.cache_ttl * REDIS_KEEPS;
        Shelf {
            db: db.clone(),
            contents: Cache::messages("product", config.cache_entries, config.cache_ttl, redis, redis_ttl),
            content: content_loader(db, tasks),
            versions: Memory::builder().max_capacity(config.cache_entries).time_to_live(redis_ttl + config.cache_ttl).build(),
            levels: Memory::builder().max_capacity(config.cache_entries).time_to_live(config.stock_ttl).build(),
            level: level_loader(db, tasks),
            categories: Cache::messages("categories", 1, CATEGORIES_TTL, None, CATEGORIES_TTL),
        }
    }

    /// A product with its stock; nothing when it is not in the shop.
    ///
    /// # Errors
    /// What the database says when it had to be asked, and [`Fault::Overloaded`] when too many wait for it.
    pub async fn product(&self, id: Uuid) -> Result<Option<proto::Product>, Fault> {
        let Some(content) = self.content(id).await? else { return Ok(None) };
        Ok(Some(proto::Product { stock: convert::units(self.stock(id).await?), ..content }))
    }

    /// All categories with their number of products, some seconds old at most.
    ///
    /// # Errors
    /// What the database says.
    pub async fn categories(&self) -> Result<proto::ListCategoriesResponse, Fault> {
        let load = async {
            let counts = list::categories(self.db.read()).await?;
            let categories = counts.into_iter().map(|(id, products)| convert::category(id, products)).collect();
            Ok(proto::ListCategoriesResponse { categories })
        };
        self.categories.get_with("all", load).await.map_err(|fault| told(&fault))
    }

    /// A product has this version now, or a later one.
    pub fn changed(&self, id: Uuid, version: i64) {
        self.versions.entry(id).and_upsert_with(|known| known.map_or(version, |known| known.into_value().max(version)));
        self.contents.invalidate(&id.to_string());
    }

    /// A product left the shop; no version of it may be shown.
    pub fn gone(&self, id: Uuid) {
        self.changed(id, i64::MAX);
    }

    /// Inventory says that this much of a product can be ordered.
    pub fn stocked(&self, id: Uuid, heard: Level) {
        self.levels.entry(id).and_compute_with(|known| match known {
            Some(known) if known.value().version >= heard.version => Op::Nop,
            _ => Op::Put(heard),
        });
    }

    async fn content(&self, id: Uuid) -> Result<Option<proto::Product>, Fault> {
        let load = async {
            match self.content.submit(id).await {
                Ok(Ok(Some(content))) => Ok(content),
                Ok(Ok(None)) => Err(Absent::Product),
                Ok(Err(fault)) | Err(fault) => Err(Absent::Fault(fault)),
            }
        };
        let content = match self.contents.get_with(&id.to_string(), load).await {
            Ok(content) => content,
            Err(absent) => match &*absent {
                Absent::Product => return Ok(None),
                Absent::Fault(fault) => return Err(told(fault)),
            },
        };
        let least = self.versions.get(&id).unwrap_or_default();
        if version(&content.etag).is_some_and(|version| version >= least) {
            return Ok(Some(content));
        }
        // The cache is behind what this process knows.
        self.contents.invalidate(&id.to_string());
        self.content.submit(id).await?
    }

    async fn stock(&self, id: Uuid) -> Result<i64, Fault> {
        if let Some(level) = self.levels.get(&id) {
            return Ok(level.available);
        }
        let level = self.level.submit(id).await??.unwrap_or(Level { available: 0, version: 0 });
        self.stocked(id, level);
        // An event may have been faster than the database's answer.
        Ok(self.levels.get(&id).unwrap_or(level).available)
    }
}

fn content_loader(db: &Db, tasks: &Tasks) -> Load<proto::Product> {
    let db = db.clone();
    Batcher::spawn(tasks, "catalog_products", WAITING, BATCH, move |ids| {
        let db = db.clone();
        async move {
            let found = products::find(db.read(), &ids).await;
            in_order(&ids, found.map(|found| found.into_iter().map(|one| (one.product.id, convert::message(&one.product, 0))).collect()))
        }
        .boxed()
    })
}

fn level_loader(db: &Db, tasks: &Tasks) -> Load<Level> {
    let db = db.clone();
    Batcher::spawn(tasks, "catalog_stock", WAITING, BATCH, move |ids| {
        let db = db.clone();
        async move { in_order(&ids, stock::levels(db.read(), &ids).await.map(HashMap::from_iter)) }.boxed()
    })
}

/// One answer for each id, in their order.
fn in_order<V: Clone>(ids: &[Uuid], found: Result<HashMap<Uuid, V>, Fault>) -> Vec<Result<Option<V>, Fault>> {
    match found {
        Ok(found) => ids.iter().map(|id| Ok(found.get(id).cloned())).collect(),
        Err(fault) => ids.iter().map(|_| Err(told(&fault))).collect(),
    }
}

/// A fault of a shared read, for each of those who waited for it.
fn told(fault: &Fault) -> Fault {
    match fault {
        Fault::Saturated => Fault::Saturated,
        Fault::Overloaded => Fault::Overloaded,
        Fault::Timeout => Fault::Timeout,
        Fault::Internal(detail) => Fault::Internal(detail.clone()),
        other => Fault::Unavailable { peer: "postgres".to_owned(), detail: other.to_string() },
    }
}
