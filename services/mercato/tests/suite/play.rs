//! How scenarios are played, and what all of them need.

use std::{future::Future, time::Duration};

/// How long a scenario may take.
const SCENARIO: Duration = Duration::from_secs(60);
/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
pub const PAUSE: Duration = Duration::from_millis(40);

/// Plays a scenario on a runtime of its own.
pub fn run(scenario: impl Future<Output = ()>) {
    run_within(SCENARIO, scenario);
}

/// The same with another limit.
pub fn run_within(limit: Duration, scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(limit, scenario).await.expect("the scenario took too long") });
}

/// Looks until there is something to see, and fails with `what` when there is nothing in time.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(tokio::time::Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Letters and digits nobody else has.
pub fn fresh(prefix: &str) -> String {
    format!("{prefix}{:016x}", rand::random::<u64>())
}
