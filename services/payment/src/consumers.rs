//! What orders tell us.

use crate::app::{self, Fresh};
use async_trait::async_trait;
use mercato_chassis::{
    Fault,
    inbox::{Consumer, Handler, Received},
};
use sqlx::PgConnection;
use std::sync::Arc;

/// The consumer of topic `orders`.
pub fn orders(fresh: Fresh) -> Consumer {
    Consumer { name: "payment.orders", topics: &["orders"], handler: Arc::new(Orders { fresh }) }
}

struct Orders {
    fresh: Fresh,
}

#[async_trait]
impl Handler for Orders {
    fn wants(&self, kind: &str) -> bool {
        matches!(kind, "order.created" | "order.confirmed" | "order.cancelled")
    }

    async fn handle(&self, tx: &mut PgConnection, event: &Received) -> Result<(), Fault> {
        app::orders::apply(tx, &[event], &self.fresh).await
    }

    async fn handle_all(&self, tx: &mut PgConnection, events: &[&Received]) -> Result<(), Fault> {
        app::orders::apply(tx, events, &self.fresh).await
    }
}
