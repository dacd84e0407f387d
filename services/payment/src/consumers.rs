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
        match event.kind.as_str() {
            "order.created" => app::orders::created(tx, event.decode()?).await,
            "order.confirmed" => app::orders::confirmed(tx, event.aggregate).await,
            _ => app::orders::cancelled(tx, event.aggregate, event.decode()?).await,
        }
    }

    fn committed(&self, _events: &[Received]) {
        self.wake.now();
    }
}
