//! What each finished step posts. Both sides are always written together.

use super::Step;
use uuid::Uuid;

/// One line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The account.
    pub account: &'static str,
    /// `D` or `C`.
    pub side: &'static str,
    /// Minor units, more than zero.
    pub amount: i64,
}

/// A balanced set of lines, posted by one attempt.
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
    /// Its lines.
    pub fn lines(&self) -> Vec<Line> {
        let pair = |debit, credit| {
            [Line { account: debit, side: "D", amount: self.amount }, Line { account: credit, side: "C", amount: self.amount }]
        };
        match self.step {
            Step::Authorize => pair("provider.hold", "customer.hold").to_vec(),
            Step::Void => pair("customer.hold", "provider.hold").to_vec(),
            Step::Capture => [pair("customer.hold", "provider.hold"), pair("provider.balance", "sales")].concat(),
            Step::Refund => pair("sales", "provider.balance").to_vec(),
        }
    }
}
