//! One real shop a test binary, and what clients may expect of it. Every scenario that a client can play is played at both doors: REST, and
//! gRPC with the generated clients, both through Envoy.

use std::{future::Future, time::Duration};

/// Makes two tests of each scenario: one at each door.
macro_rules! at_both_doors {
    ($($scenario:ident),* $(,)?) => {
        mod rest {
            $(#[test]
            fn $scenario() {
                crate::suite::run(async { super::$scenario(crate::suite::door::rest()).await });
            })*
        }
        mod grpc {
            $(#[test]
            fn $scenario() {
                crate::suite::run(async { super::$scenario(crate::suite::door::grpc()).await });
            })*
        }
    };
}

/// Makes a test of each scenario that brings its own way in.
macro_rules! alone {
    ($($scenario:ident),* $(,)?) => {
        mod alone {
            $(#[test]
            fn $scenario() {
                crate::suite::run(async { super::$scenario().await });
            })*
        }
    };
}

mod cancels;
mod catalog;
mod children;
mod customers;
mod door;
mod grpc;
mod orders;
mod owners;
mod pages;
mod peers;
mod raw;
mod refusals;
mod repeats;
mod rest;
mod shop;
mod shopper;
mod signer;
mod sweep;
mod tokens;
mod web;

/// How long a scenario may take.
const SCENARIO: Duration = Duration::from_secs(60);
/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(40);

/// Plays a scenario on a runtime of its own.
fn run(scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(SCENARIO, scenario).await.expect("the scenario took too long") });
}

/// Looks until there is something to see, and fails with `what` when there is nothing in time.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
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
fn fresh(prefix: &str) -> String {
    format!("{prefix}{:016x}", rand::random::<u64>())
}
