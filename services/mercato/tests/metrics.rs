//! What the metrics are called, and the page that lists them: docs/metrics.md. `MERCATO_UPDATE_METRICS=1` writes it anew.

use mercato_chassis::metrics::{self, About, Kind};
use std::{collections::BTreeSet, path::Path};

fn all() -> Vec<(&'static str, &'static [&'static About])> {
    vec![
        ("Every role", metrics::ALL),
        ("Every process", metrics::PROCESS),
        ("Ordering", mercato_ordering::metrics::ALL),
        ("Inventory", mercato_inventory::metrics::ALL),
        ("Payment", mercato_payment::metrics::ALL),
        ("Customer", mercato_customer::metrics::ALL),
        ("Gateway", mercato_gateway::metrics::ALL),
    ]
}

/// What is wrong with a definition.
fn faults(about: &About) -> Vec<String> {
    let name = about.name;
    let snake = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let mut found = Vec::new();
    let mut must = |good: bool, what: &str| {
        if !good {
            found.push(format!("{name}: {what}"))
        }
    };
    must(snake(name) && about.labels.iter().all(|label| snake(label)), "names are lower case with underscores");
    must(name.starts_with("mercato_") || name.starts_with("process_"), "begins with neither mercato_ nor process_");
    must(name.ends_with("_total") == (about.kind == Kind::Counter), "counters, and only they, end in _total");
    must(about.kind != Kind::Histogram || name.ends_with("_seconds") || name.ends_with("_items"), "histograms are of seconds or items");
    must(!about.labels.iter().any(|label| ["id", "order", "customer"].contains(label)), "a label without a bound");
    must(!about.labels.iter().any(|label| ["job", "instance", "le"].contains(label)), "a label that Prometheus sets itself");
    must(about.help.trim().ends_with('.') && about.help.len() > 10, "needs a sentence that explains it");
    found
}

#[test]
fn names_follow_one_scheme_and_none_is_used_twice() {
    let mut seen = BTreeSet::new();
    let twice = |about: &&About| (!seen.insert(about.name)).then(|| format!("{} is defined twice", about.name));
    let list: Vec<&About> = all().into_iter().flat_map(|(_, list)| list.iter().copied()).collect();
    let faults: Vec<String> = list.iter().flat_map(|about| faults(about)).chain(list.iter().filter_map(twice)).collect();
    assert!(list.len() > 50 && faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn the_scheme_refuses_what_it_must() {
    let about = |name, kind, labels, help| About { name, kind, labels, help };
    for bad in [
        about("mercato_calls", Kind::Counter, &[], "Calls that ended."),
        about("mercato_rows_total", Kind::Gauge, &[], "Rows that lie there."),
        about("calls_total", Kind::Counter, &[], "Calls that ended."),
        about("mercato_call_millis", Kind::Histogram, &[], "How long calls took."),
        about("mercato_call_total", Kind::Counter, &["order"], "Calls by order."),
        about("mercato_call_total", Kind::Counter, &[], ""),
    ] {
        assert_eq!(faults(&bad).len(), 1, "{bad:?}");
    }
}

#[test]
fn the_reference_page_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let page = metrics::reference(&all());
    if std::env::var_os("MERCATO_UPDATE_METRICS").is_some() {
        std::fs::write(&path, &page).expect("the page can be written");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(known == page, "docs/metrics.md is old: MERCATO_UPDATE_METRICS=1 cargo test -p mercato --test metrics");
}

/// Whoever had the library of the recorder could write what is not defined.
#[test]
fn only_the_chassis_can_write_metrics_of_its_own_making() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let manifest = |path: &str| std::fs::read_to_string(root.join(path)).expect("a manifest");
    let writes = |text: &str| text.lines().any(|line| line.starts_with("prometheus"));
    assert!(writes(&manifest("services/chassis/Cargo.toml")), "it is looked for by the wrong name");
    for role in ["catalog", "inventory", "ordering", "payment", "customer", "mercato"] {
        assert!(!writes(&manifest(&format!("services/{role}/Cargo.toml"))), "{role}: use mercato_chassis::define_metrics");
    }
    assert!(!writes(&manifest("gateway/Cargo.toml")), "gateway: use mercato_chassis::define_metrics");
}
