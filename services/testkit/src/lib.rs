//! What tests stand on: databases of their own, keys, actors, and sandboxes that run roles in process on the real stores.
//!
//! The stores come from `DATABASE_URL`, `REDIS_URL` and `KAFKA_BROKERS`; a test that needs one that is not named fails and says so.

mod actors;
mod database;
mod fake;
mod keys;
mod parts;
mod patient;
mod sandbox;

pub use actors::{Actor, Customer, Guest, PeerActor, Signed, Staff};
pub use database::TestDatabase;
pub use fake::Fake;
pub use keys::TestKeys;
pub use parts::Parts;
pub use patient::{Patient, busy, patiently};
pub use sandbox::{Builder, Sandbox, TOPICS};

use std::{future::Future, time::Duration};

/// How long to wait for what must come: longer than it takes on any machine. Nobody waits longer than it takes.
pub const LONG: Duration = Duration::from_secs(120);

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none within `limit`.
pub async fn eventually<T, F, R>(what: &str, limit: Duration, mut ask: F) -> T
where
    F: FnMut() -> R,
    R: Future<Output = Option<T>>,
{
    let answer = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            ticks.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}
