//! What orders tell us.

use crate::app;
use async_trait::async_trait;
use mercato_chassis::{
    Fault,
    inbox::{Consumer, Handler, Received},
    work::Wake,
};
use sqlx::PgConnection;
use std::sync::Arc;

/// The consumer of topic `orders`.
pub fn orders(wake: Wake) -> Consumer {
    Consumer { name: "payment.orders", topics: &["orders"], handler: Arc::new(Orders { wake }) }
}

struct Orders {
    wake: Wake,
}

#[async_trait]
impl Handler for Orders {
    fn wants(&self, kind: &str) -> bool {
        matches!(kind, "order.created" | "order.confirmed" | "order.cancelled")
    }

    async fn handle(&self, tx: &mut PgConnection, event: &Received) -> Result<(), Fault> {
        app::orders::apply(tx, &[event]).await
    }

    async fn handle_all(&self, tx: &mut PgConnection, events: &[&Received]) -> Result<(), Fault> {
        app::orders::apply(tx, events).await
    }

    fn committed(&self, _events: &[Received]) {
        self.wake.now();
    }
}
