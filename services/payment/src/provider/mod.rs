//! The door to payment providers. What a provider says is judged here; what follows from it is the domain's business.

mod dev;
mod wire;

pub use dev::DevProvider;

use crate::domain::{Reply, Sight, Token};
use async_trait::async_trait;
use mercato_chassis::Fault;

/// What is asked of a provider. Repeating it with the same key must not repeat its effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Our reference of the payment.
    pub reference: String,
    /// The provider's idempotency key; of a refund also our reference of it.
    pub key: String,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: String,
}

/// One line of a provider's own ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// 1, 2, 3 ...
    pub sequence: u64,
    /// The step: `authorize`, `capture`, `void`, `refund`; other things that moved no money are left out.
    pub step: &'static str,
    /// The idempotency key it came with.
    pub key: String,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: String,
}

/// A payment provider. No method fails: not to know is an answer. Calls bound their own time.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Its name in webhook addresses and metrics.
    fn name(&self) -> &'static str;
    /// Holds the amount.
    async fn authorize(&self, ask: &Ask, method: &str, token: &Token) -> Reply;
    /// Takes what is held.
    async fn capture(&self, ask: &Ask) -> Reply;
    /// Gives the hold back, and closes the reference even if nothing is held. `held` tells whether the amount is known to be held.
    async fn void(&self, ask: &Ask, held: bool) -> Reply;
    /// Gives taken money back.
    async fn refund(&self, ask: &Ask) -> Reply;
    /// Looks a payment up by our own reference.
    async fn look_up(&self, reference: &str) -> Sight;
    /// A page of its ledger after a sequence, empty at the end, and the last sequence of the page.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when it cannot be read.
    async fn entries(&self, after: u64) -> Result<(Vec<Entry>, Option<u64>), Fault>;
}
