//! What happens to payments: transactions around the domain, and the provider called between them.

mod fresh;
pub(crate) mod orders;
mod reconcile;
mod refunds;
mod steps;
mod webhooks;

pub(crate) use fresh::Fresh;
pub use reconcile::{Difference, Side, reconcile};
pub use webhooks::{Signature, Webhook};

use crate::{
    domain::{Policy, View},
    error::Error,
    provider::Provider,
    store,
};
use mercato_chassis::{Scope, pg::Db, tasks::Tasks};
use std::sync::Arc;
use uuid::Uuid;

/// Everything payments need.
#[derive(Clone)]
pub struct Payments {
    pub(crate) db: Db,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) policy: Policy,
    pub(crate) fresh: Fresh,
    reading: steps::Reading,
    settling: steps::Settling,
    hooks: webhooks::Entrance,
}

impl Payments {
    /// Payments of one provider; starts the loops that read and write many at once.
    pub fn new(db: Db, provider: Arc<dyn Provider>, policy: Policy, tasks: &Tasks) -> Self {
        let (reading, settling, hooks) = (steps::reading(&db, tasks), steps::settling(&db, tasks), webhooks::entrance(&db, tasks));
        Self { db, provider, policy, fresh: Fresh::default(), reading, settling, hooks }
    }

    /// The payment of an order.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for another customer's.
    pub async fn find(&self, order: Uuid, scope: Scope) -> Result<View, Error> {
        let view = store::view(self.db.read(), order, scope).await?;
        view.ok_or_else(|| Error::NotFound { order_id: order.to_string() })
    }
}
