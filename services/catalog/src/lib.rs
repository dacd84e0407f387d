//! Products and categories: what the shop sells. `README.md` says what the catalog owns and promises.

#![forbid(unsafe_code)]

pub mod app;
pub mod config;
pub mod consumers;
pub mod convert;
pub mod domain;
pub mod error;
pub mod events;
pub mod grpc;
pub mod seed;
pub mod store;

use app::{App, shelf::Shelf};
use chassis::{
    config::Source,
    error::Fault,
    role::{Context, Mounted, Prepared, Role},
};
use config::Config;
use mercato_chassis as chassis;
use mercato_contracts::mercato::catalog::v1::{
    product_lookup_service_server::ProductLookupServiceServer, product_service_server::ProductServiceServer,
};
use std::sync::Arc;

/// The migrations of the catalog's database.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// The role `catalog`.
pub struct Catalog;

impl Role for Catalog {
    fn name(&self) -> &'static str {
        "catalog"
    }

    fn migrations(&self) -> Option<&'static sqlx::migrate::Migrator> {
        Some(&MIGRATIONS)
    }

    fn sequences(&self) -> &'static [(&'static str, &'static str)] {
        &[("catalog", "select id, version from product where id = any($1)")]
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
        let shelf = Arc::new(Shelf::new(&db, ctx.redis.clone(), &ctx.tasks, &self.0));
        let app = App { db, page_tokens: ctx.page_tokens.clone(), currency: self.0.currency, shelf: Arc::clone(&shelf) };
        let mut mounted = Mounted::new();
        mounted.add(ProductServiceServer::new(grpc::products::Products(app.clone())));
        mounted.add(ProductLookupServiceServer::new(grpc::lookup::Lookup(app)));
        mounted.consumers.push(consumers::stock_keeper(Arc::clone(&shelf)));
        mounted.broadcasts.push(consumers::shelf_keeper(shelf));
        Ok(mounted)
    }
}
