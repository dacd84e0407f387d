//! A short run of everything at once, on a shop of its own.

use mercato_chaos::{
    nemesis::Nemesis,
    run::{Options, run},
    world::Form,
};
use std::{path::PathBuf, time::Duration};

/// Always the same, so that a failure here is one that comes back.
const SEED: u64 = 20_261_121;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_invariant_holds_after_two_faults_at_once() {
    let state = PathBuf::from(format!("/var/tmp/mercato-chaos-test-{}", std::process::id()));
    let options = Options { seed: SEED, orders: 120, nemesis: Nemesis::Mix, time: Duration::from_secs(60), form: Form::Together, state };
    let outcome = run(&options).await.expect("the run comes to its end");
    println!("{}", outcome.report);
    assert!(outcome.violations.is_empty(), "\n{}", outcome.report);
}
