//! Ordering: the event-sourced order, which is also the saga. It decides; inventory and payment react and answer. See README.md for its
//! promises. It never reads another service's tables and never calls anybody inside a transaction.

#![forbid(unsafe_code)]

pub mod app;
pub mod clock;
pub mod consumers;
pub mod convert;
pub mod domain;
pub mod error;
pub mod events;
pub mod grpc;
pub mod metrics;
pub mod store;
pub mod watch;
pub mod workers;

use async_trait::async_trait;
use mercato_chassis::config::Source;
use mercato_chassis::error::Fault;
use mercato_chassis::idempotency::Finder;
use mercato_chassis::inbox::Consumer;
use mercato_chassis::role::{Again, Context, Mounted, Prepared, Retold, Role};
use mercato_contracts::mercato::ordering::v1::{
    order_operator_service_server::OrderOperatorServiceServer, order_service_server::OrderServiceServer,
};
use sqlx::migrate::Migrator;
use std::sync::Arc;

/// The schema.
pub static MIGRATIONS: Migrator = sqlx::migrate!();

/// The role `ordering`.
pub struct Ordering;

impl Role for Ordering {
    fn name(&self) -> &'static str {
        "ordering"
    }

    fn migrations(&self) -> Option<&'static Migrator> {
        Some(&MIGRATIONS)
    }

    fn sequences(&self) -> &'static [(&'static str, &'static str)] {
        &[("orders", "select id, version from orders where id = any($1)")]
    }

    fn counts(&self) -> &'static [(&'static str, &'static str)] {
        &[("ordering.payments", "payments")]
    }

    fn again(&self) -> &'static [Again] {
        &[Again {
            topic: events::TOPIC,
            aggregates: "select id, version from orders where id > $1 order by id limit $2",
            events: Retold::Kept(
                "select e.order_id, e.version, e.kind, e.payload from unnest($1::uuid[], $2::bigint[]) as m (order_id, after)
                 join order_event e on e.order_id = m.order_id and e.version > m.after order by e.order_id, e.version",
            ),
        }]
    }

    fn configure(&self, _source: &mut Source) -> Box<dyn Prepared> {
        Box::new(Ready)
    }
}

struct Ready;

#[async_trait]
impl Prepared for Ready {
    async fn start(self: Box<Self>, ctx: Context) -> Result<Mounted, Fault> {
        let hub = Arc::new(watch::Hub::default());
        let app = app::App {
            db: ctx.db(),
            catalog: ctx.peers.get("catalog"),
            inventory: ctx.peers.get("inventory"),
            payment: ctx.peers.get("payment"),
            keys: Finder::spawn(&ctx.db(), &ctx.tasks),
            placing: app::place::entrance(&ctx.db(), &ctx.tasks),
            commits: app::check::commits(ctx.peers.get("inventory"), &ctx.tasks),
            settling: app::check::entrance(&ctx.db(), &hub, &ctx.tasks),
            wake: ctx.wake.clone(),
            hub: hub.clone(),
        };
        hub.run(ctx.db(), &ctx.tasks);
        let orders = grpc::Orders { app: app.clone(), page_tokens: ctx.page_tokens.clone(), stop: ctx.tasks.token() };
        let mut mounted = Mounted::default();
        mounted.add(OrderServiceServer::new(orders.clone()));
        mounted.add(OrderOperatorServiceServer::new(orders));
        mounted.consumers.push(Consumer {
            name: "ordering.payments",
            topics: &["payments"],
            handler: Arc::new(consumers::Payments(app.clone())),
        });
        mounted.workers.push(Arc::new(workers::Steps(app.clone())));
        mounted.jobs.extend([workers::timer(app), workers::gauges(ctx.db())]);
        Ok(mounted)
    }
}
