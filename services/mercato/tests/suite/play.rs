//! How scenarios are played, and what all of them need.

use super::door::Refused;
use std::{future::Future, time::Duration};

/// How long a scenario may take, on a machine of any speed.
const SCENARIO: Duration = Duration::from_secs(600);
/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a condition is looked at.
pub const PAUSE: Duration = Duration::from_millis(40);

/// Plays a scenario on a runtime of its own, in the shop that is started first: its start has a limit of its own.
pub fn run(scenario: impl Future<Output = ()>) {
    run_within(SCENARIO, scenario);
}

/// The same with another limit.
pub fn run_within(limit: Duration, scenario: impl Future<Output = ()>) {
    super::start();
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

/// Asks until there is an answer, or a refusal that says more than that it cannot be now: no machine is fast enough for every deadline.
/// What is refused so every time comes back as it is. A change must carry the same key each time.
pub async fn settled<T>(ask: impl AsyncFnMut() -> Result<T, Refused>) -> Result<T, Refused> {
    settled_but(|told| told.as_ref().is_err_and(Refused::passing), ask).await
}

/// The same for answers of which `passing` tells whether they only say that it cannot be now.
pub async fn settled_but<T>(passing: impl Fn(&T) -> bool, mut ask: impl AsyncFnMut() -> T) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut pause = PAUSE;
    loop {
        let told = ask().await;
        if !passing(&told) || tokio::time::Instant::now() > end {
            return told;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Letters and digits nobody else has.
pub fn fresh(prefix: &str) -> String {
    format!("{prefix}{:016x}", rand::random::<u64>())
}
