//! What a payment is and how it moves. Pure: no clock, no store, no network.

mod attempt;
mod payment;
mod policy;
mod reply;
mod sight;
#[cfg(test)]
mod tests;

pub use attempt::{Attempt, AttemptState, Step, reference_of_key};
pub use payment::{Begin, Effect, EventKind, NewPayment, Outcome, Payment, RefundRefusal, Status, Token, View};
pub use policy::{Policy, TimeScale};
pub use reply::Reply;
pub use sight::{Found, FoundState, Sight};

pub(crate) mod ledger;
