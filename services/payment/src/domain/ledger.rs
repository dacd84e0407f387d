//! What each finished step posts. Both sides are always written together, in one row.

use super::Step;
use uuid::Uuid;

/// An amount that goes from one account to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The account that is debited.
    pub debit: &'static str,
    /// The account that is credited.
    pub credit: &'static str,
}

/// What one attempt posts: entries over the same amount, each of which balances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posting {
    /// The attempt, and so the transaction.
    pub attempt: Uuid,
    /// What was done.
    pub step: Step,
    /// The provider's idempotency key: how the provider's ledger names the same thing.
    pub key: String,
    /// How much.
    pub amount: i64,
}

impl Posting {
    /// Its entries.
    pub fn entries(&self) -> &'static [Entry] {
        const HOLD: Entry = Entry { debit: "provider.hold", credit: "customer.hold" };
        const UNHOLD: Entry = Entry { debit: "customer.hold", credit: "provider.hold" };
        const SALE: Entry = Entry { debit: "provider.balance", credit: "sales" };
        const RETURN: Entry = Entry { debit: "sales", credit: "provider.balance" };
        match self.step {
            Step::Authorize => &[HOLD],
            Step::Void => &[UNHOLD],
            Step::Capture => &[UNHOLD, SALE],
            Step::Refund => &[RETURN],
        }
    }
}
