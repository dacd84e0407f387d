//! The role `customer`: accounts, sessions, tokens and roles. README.md says what it promises.

mod app;
mod config;
mod convert;
mod domain;
mod error;
mod events;
mod grpc;
mod jobs;
pub mod metrics;
mod store;

use async_trait::async_trait;
use mercato_chassis::error::Fault;
use mercato_chassis::role::{Context, Mounted, Prepared, Role};
use mercato_contracts::mercato::customer::v1::auth_service_server::AuthServiceServer;
use mercato_contracts::mercato::customer::v1::customer_service_server::CustomerServiceServer;
use mercato_contracts::mercato::customer::v1::key_service_server::KeyServiceServer;
use sqlx::migrate::Migrator;

pub use app::accounts::seed;
pub use error::Error;

use crate::app::accounts::Accounts;
use crate::app::keys::Keys;
use crate::app::passwords::Passwords;
use crate::app::sessions::Sessions;
use crate::config::Settings;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The role.
pub struct Customer;

impl Role for Customer {
    fn name(&self) -> &'static str {
        "customer"
    }

    fn migrations(&self) -> Option<&'static Migrator> {
        Some(&MIGRATIONS)
    }

    fn sequences(&self) -> &'static [(&'static str, &'static str)] {
        &[("customers", "select id, version from customer where id = any($1)")]
    }

    fn configure(&self, source: &mut mercato_chassis::config::Source) -> Box<dyn Prepared> {
        Box::new(Configured(Settings::read(source)))
    }
}

struct Configured(Settings);

#[async_trait]
impl Prepared for Configured {
    async fn start(self: Box<Self>, ctx: Context) -> Result<Mounted, Fault> {
        let settings = self.0;
        let db = ctx.database()?;
        let passwords = Passwords::new()?;
        let keys = Keys::new(db.clone(), settings.seal.clone(), settings.keys);
        keys.check().await?;
        keys.rotate().await?;
        let token_life = i32::try_from(settings.keys.token_life.as_secs()).unwrap_or(i32::MAX);
        let accounts = Accounts::new(db.clone(), passwords.clone());
        let mut mounted = Mounted::new();
        mounted.add(CustomerServiceServer::new(grpc::Customers { accounts, seal: settings.seal.clone() }));
        let sessions = Sessions::new(db.clone(), passwords, keys.clone(), settings);
        mounted.add(AuthServiceServer::new(grpc::Auth { sessions, token_life }));
        mounted.add(KeyServiceServer::new(grpc::KeySets(keys.clone())));
        mounted.jobs = jobs::all(&db, &keys);
        Ok(mounted)
    }
}
