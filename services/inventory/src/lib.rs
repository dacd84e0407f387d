//! Inventory: stock by product and warehouse, holds on it for orders, and the ledger that explains every change. See README.md for its
//! promises. It never sells a unit twice, and it never calls anybody inside a transaction.

#![forbid(unsafe_code)]

mod again;
pub mod app;
pub mod config;
pub mod consumers;
pub mod convert;
pub mod domain;
pub mod error;
pub mod events;
pub mod grpc;
pub mod jobs;
pub mod metrics;
pub mod store;
pub mod workers;

pub use app::{Difference, reconcile, seed};

use app::{Reservations, StockKeeper};
use chassis::{
    cache::Cache,
    config::Source,
    error::Fault,
    inbox::Consumer,
    role::{Again, Context, Mounted, Prepared, Role},
};
use config::Config;
use mercato_chassis as chassis;
use mercato_contracts::mercato::inventory::v1::{
    reservation_service_server::ReservationServiceServer, stock_service_server::StockServiceServer,
};
use std::{sync::Arc, time::Duration};

/// The tables of this role.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// How long availability may be remembered in this process, and in Redis.
const CACHED: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));

/// The role `inventory`.
pub struct Inventory;

impl Role for Inventory {
    fn name(&self) -> &'static str {
        "inventory"
    }

    fn migrations(&self) -> Option<&'static sqlx::migrate::Migrator> {
        Some(&MIGRATIONS)
    }

    fn sequences(&self) -> &'static [(&'static str, &'static str)] {
        &[(
            "inventory",
            "select order_id, version from reservation where order_id = any($1)
             union all select product_id, version from product_version where product_id = any($1)",
        )]
    }

    fn again(&self) -> &'static [Again] {
        &[again::LEVELS]
    }

    fn configure(&self, source: &mut Source) -> Box<dyn Prepared> {
        Box::new(Configured(Config::read(source)))
    }
}

struct Configured(Config);

#[async_trait::async_trait]
impl Prepared for Configured {
    async fn start(self: Box<Self>, ctx: Context) -> Result<Mounted, Fault> {
        let db = ctx.database()?;
        let cache = Cache::messages("inventory", 10_000, CACHED.0, ctx.redis.clone(), CACHED.1);
        let keeper = StockKeeper { db: db.clone(), catalog: ctx.peers.get("catalog"), cache };
        let changed = {
            let keeper = keeper.clone();
            Arc::new(move |products: &[uuid::Uuid]| keeper.forget(products))
        };
        let reservations = Reservations::new(db.clone(), &ctx.tasks, self.0.reservation_ttl, changed);

        let mut mounted = Mounted::new();
        mounted.add(StockServiceServer::new(grpc::StockApi { keeper: keeper.clone(), page_tokens: ctx.page_tokens.clone() }));
        mounted.add(ReservationServiceServer::new(grpc::ReservationApi { reservations: reservations.clone() }));
        let handler = Arc::new(consumers::Orders { wake: ctx.wake.clone() });
        mounted.consumers.push(Consumer { name: "inventory.orders", topics: &["orders"], handler });
        mounted.broadcasts.push(consumers::freshness(keeper));
        mounted.workers.push(Arc::new(workers::Releases { db: db.clone(), reservations: reservations.clone() }));
        mounted.jobs.extend([jobs::expiry(reservations), jobs::reconcile(db.clone(), self.0.reconcile_every), jobs::gauges(db)]);
        Ok(mounted)
    }
}
