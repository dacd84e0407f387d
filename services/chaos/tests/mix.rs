//! A minute of everything at once, on a shop of its own. `MERCATO_CHAOS_SEED` repeats a run; without it each run has another seed, which
//! it prints.

use mercato_chaos::{
    nemesis::Nemesis,
    run::{Options, run},
    world::Form,
};
use std::{path::PathBuf, time::Duration};

/// Few enough for a slow machine; every limit of the run itself ends early when the shop is quiet.
const ORDERS: usize = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_invariant_holds_after_two_faults_at_once() {
    let given = std::env::var("MERCATO_CHAOS_SEED").ok().map(|text| text.parse().expect("MERCATO_CHAOS_SEED is a number"));
    let seed = given.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let state = PathBuf::from(format!("/var/tmp/mercato-chaos-test-{}", std::process::id()));
    let options = Options { seed, orders: ORDERS, nemesis: Nemesis::Mix, time: Duration::from_secs(60), form: Form::Together, state };
    let outcome = run(&options).await.unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    println!("{}", outcome.report);
    assert!(outcome.violations.is_empty(), "repeat with MERCATO_CHAOS_SEED={seed}\n{}", outcome.report);
}
