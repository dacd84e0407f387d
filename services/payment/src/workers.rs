//! The workers behind every call of the provider.

use crate::{app::Payments, store::LOOK_UP};
use async_trait::async_trait;
use mercato_chassis::work::{Item, Verdict, Worker};

/// Does the steps of payments and their look-ups.
pub struct Steps(pub Payments);

#[async_trait]
impl Worker for Steps {
    fn kinds(&self) -> &'static [&'static str] {
        &["authorize", "capture", "void", "refund", LOOK_UP]
    }

    async fn run(&self, item: &Item) -> Verdict {
        self.0.run(item).await
    }

    /// A slow provider must not hold up the payments of others. Results are stored together, so a run holds no connection of its own.
    fn parallel(&self) -> usize {
        128
    }
}
