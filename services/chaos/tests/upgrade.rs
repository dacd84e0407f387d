//! The next release's schema comes, and both processes of a shop are replaced, while customers order: nobody hears of it past one retry.
//! `dev/chaos rolling` does it with two processes a role. Answers that are only too late are the machine's here; `dev/chaos upgrade` counts
//! them.

use mercato_chaos::{nemesis::Nemesis, rolling::Late, run::Options, upgrade::upgrade, world::Form};
use std::{path::PathBuf, time::Duration};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_hears_of_an_upgrade_past_one_retry() {
    let state = PathBuf::from(format!("/var/tmp/mercato-upgrade-test-{}", std::process::id()));
    let options =
        Options { seed: 20_261_121, orders: 120, nemesis: Nemesis::None, time: Duration::from_secs(60), form: Form::Twins, state };
    let outcome = upgrade(&options, Late::Excused).await.unwrap_or_else(|error| panic!("{error:#}"));
    println!("{}", outcome.report);
    assert!(outcome.violations.is_empty(), "{}", outcome.report);
}
