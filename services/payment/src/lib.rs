//! Payments of orders: what is asked of the provider, what came of it, and the double-entry ledger.
//!
//! A payment is driven by the events of its order. Each step is stored as an intent before the provider is called, with a key that is
//! derived from the order, so that a repetition is the same request. What the provider does not tell is looked up by our own
//! reference until it is known; it is never taken for a failure. The README tells the whole story.

mod again;
pub mod app;
mod config;
mod consumers;
mod convert;
pub mod domain;
mod error;
mod events;
mod grpc;
mod jobs;
pub mod metrics;
pub mod provider;
mod store;
mod workers;

pub use config::Config;
pub use error::Error;

use async_trait::async_trait;
use mercato_chassis::{Context, Fault, Mounted, Prepared, Role, config::Source, role::Again};
use mercato_contracts::mercato::payment::v1::{
    payment_lookup_service_server::PaymentLookupServiceServer, payment_service_server::PaymentServiceServer,
};
use std::sync::Arc;

/// The database of this service.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// The role `payment`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Payment;

impl Role for Payment {
    fn name(&self) -> &'static str {
        "payment"
    }

    fn migrations(&self) -> Option<&'static sqlx::migrate::Migrator> {
        Some(&MIGRATIONS)
    }

    fn sequences(&self) -> &'static [(&'static str, &'static str)] {
        &[("payments", "select order_id, version from payment where order_id = any($1)")]
    }

    fn counts(&self) -> &'static [(&'static str, &'static str)] {
        &[("payment.orders", "orders")]
    }

    fn again(&self) -> &'static [Again] {
        &[again::PAYMENTS]
    }

    fn configure(&self, source: &mut Source) -> Box<dyn Prepared> {
        Box::new(Ready { config: Config::read(source) })
    }
}

struct Ready {
    config: Config,
}

#[async_trait]
impl Prepared for Ready {
    async fn start(self: Box<Self>, ctx: Context) -> Result<Mounted, Fault> {
        let config = self.config;
        metrics::MISMATCHES.add([], 0);
        let provider = provider::DevProvider::new(config.provider_url, config.call_timeout, config.look_up_timeout)?;
        let payments = app::Payments::new(ctx.database()?, Arc::new(provider), config.policy, &ctx.tasks);
        let mut mounted = Mounted::new();
        mounted.add(PaymentServiceServer::new(grpc::Service::new(payments.clone(), config.webhook_secrets)));
        mounted.add(PaymentLookupServiceServer::new(grpc::Lookup(payments.clone())));
        mounted.consumers.push(consumers::orders(payments.fresh.clone()));
        mounted.jobs.extend(jobs::all(&payments, config.reconcile_every));
        mounted.workers.push(Arc::new(workers::Steps(payments)));
        Ok(mounted)
    }
}
