//! Customer as its callers see it: the real role, on real PostgreSQL and Kafka, over the wire.

mod accounts;
mod auth;
mod events;
mod keys;
mod world;

use mercato_chassis::error::Refusal;
use tonic::{Code, Status};

/// Code and reason of a refusal.
fn refusal(status: &Status) -> (Code, String) {
    (status.code(), Refusal::of(status).reason)
}

/// Asserts that a call was refused with this code and reason.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, reason: &str) {
    let status = answer.expect_err("this call must be refused");
    assert_eq!(refusal(&status), (code, reason.to_owned()), "{status:?}");
}
