//! What inventory does about other services' events.

use crate::{app::StockKeeper, events, workers::RELEASE};
use chassis::{
    error::Fault,
    inbox::{Broadcast, Handler, Received},
    work::{self, Step, Wake},
};
use mercato_chassis as chassis;
use sqlx::PgConnection;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

const CANCELLED: &str = "order.cancelled";

/// Gives back what a cancelled order holds. Ordering asks for it too; this way the stock comes back even if its call never arrives.
pub struct Orders {
    /// Nudges the worker.
    pub wake: Wake,
}

#[async_trait::async_trait]
impl Handler for Orders {
    fn wants(&self, kind: &str) -> bool {
        kind == CANCELLED
    }

    /// A hold is given back once, however often and whenever it is asked for; nothing else that happens to orders concerns us.
    fn alone(&self, _kind: &str) -> bool {
        true
    }

    async fn handle(&self, tx: &mut PgConnection, event: &Received) -> Result<(), Fault> {
        work::enqueue(tx, RELEASE, event.aggregate, Duration::ZERO).await
    }

    async fn handle_all(&self, tx: &mut PgConnection, events: &[&Received]) -> Result<(), Fault> {
        let steps: BTreeSet<Step> = events.iter().map(|event| event.in_trace(|| Step::new(RELEASE, event.aggregate))).collect();
        work::enqueue_all(tx, &steps.into_iter().collect::<Vec<_>>()).await
    }

    fn committed(&self, _events: &[Received]) {
        self.wake.now();
    }
}

/// Drops cached availability that another instance changed.
pub fn freshness(keeper: StockKeeper) -> Broadcast {
    let forget = move |event: &Received| {
        if event.kind == "inventory.updated" {
            keeper.forget(&[event.aggregate]);
        }
    };
    Broadcast { name: "inventory.cache", topics: &[events::TOPIC], on_event: Arc::new(forget) }
}
