//! What the processes tell about themselves is written as Prometheus likes it, and the business figures are there.

use super::{
    door::rest,
    openmetrics,
    shop::shop,
    shopper::{Shopper, order, text},
    until,
};
use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

alone!(are_told_as_prometheus_likes_it);

async fn are_told_as_prometheus_likes_it() {
    let door = rest();
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("12.50", 2).await;
    let id = text(&anna.place_order(order(&[(&product, 1)])).await.expect("an order").body["id"]);
    anna.sees_status(&id, "PAID").await;
    let captured = until("the money is counted", async || {
        let scrapes = shop().scrapes().await;
        let revenue = "mercato_ordering_revenue_minor_units_total{currency=\"EUR\"} ";
        scrapes.iter().any(|text| text.lines().any(|line| line.starts_with(revenue))).then_some(scrapes)
    });
    let mut told = BTreeSet::new();
    for scrape in captured.await {
        let lint = check(&scrape);
        assert!(lint.is_empty(), "{lint}");
        let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        told.extend(types.map(str::to_owned));
        assert!(scrape.contains("# TYPE process_cpu_seconds_total counter\n"), "a process does not tell its own use");
    }
    for scrape in shop().open_scrapes().await {
        let exemplars = openmetrics::read(&scrape).unwrap_or_else(|what| panic!("{what}"));
        assert!(exemplars.is_empty(), "no trace of this shop is exported: {exemplars:?}");
    }
    // a gateway of its own answers Envoy alone and has perhaps not been called yet
    assert!(told.contains("mercato_rpc_calls_total") && told.contains("mercato_db_units_total"), "{told:?}");
}

/// What promtool finds wrong.
fn check(scrape: &str) -> String {
    let promtool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".into());
    let mut child = Command::new(&promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{promtool}: {error}; dev/fetch prometheus brings it, dev/test names it in PROMTOOL"));
    child.stdin.take().expect("it reads").write_all(scrape.as_bytes()).expect("it reads all");
    let output = child.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
