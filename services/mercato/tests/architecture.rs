//! Rules of the tree that no compiler holds: who may depend on whom, that every reason has its page, that the chassis knows no commerce,
//! that files stay readable and services look alike. Each rule is proved by a planted fault.

#[path = "rules/mod.rs"]
mod rules;

use rules::{answers, graph, promises, shape, words};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

#[track_caller]
fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn services_know_contracts_and_chassis_only() {
    none(graph::faults(&graph::read(&root())));
}

#[test]
fn every_reason_has_its_page_and_every_page_its_reason() {
    let (reasons, pages) = (shape::reasons(&root().join("proto/mercato")), shape::pages(&root().join("docs/errors")));
    assert!(reasons.len() > 30, "the reasons were not found: {reasons:?}");
    none(shape::unpaired(&reasons, &pages));
}

#[test]
fn files_stay_short() {
    let files: Vec<_> =
        ["services", "gateway", "proto", "build"].iter().flat_map(|folder| shape::rust_files(&root().join(folder))).collect();
    assert!(files.len() > 100, "the files were not found");
    none(shape::too_long(&files));
}

#[test]
fn the_chassis_knows_no_commerce() {
    let files = shape::rust_files(&root().join("services/chassis/src"));
    assert!(files.len() > 20, "the chassis was not found");
    none(files.iter().flat_map(|(path, text)| words::faults(path, text)).collect());
}

#[test]
fn services_have_the_same_anatomy() {
    none(shape::SERVICES.iter().flat_map(|service| shape::missing(&root().join("services").join(service))).collect());
}

#[test]
fn every_field_of_an_answer_has_its_readers_written_down() {
    let written = std::fs::read_to_string(root().join("services/mercato/tests/rules/answers.txt")).expect("the list");
    none(answers::faults(&answers::told(), &written));
}

#[test]
fn the_table_of_security_names_tests_that_are_there() {
    let table = std::fs::read_to_string(root().join("docs/security.md")).expect("docs/security.md");
    let files: Vec<_> = ["services", "gateway", "proto"].iter().flat_map(|folder| shape::rust_files(&root().join(folder))).collect();
    none(promises::faults(&table, &files));
}

/// Nobody fetches a URL that a caller named: one service speaks HTTP to the outside, to the provider that its settings name.
#[test]
fn only_payment_calls_the_outside() {
    let callers: Vec<String> = graph::needing(&root(), &["reqwest", "hyper-util", "ureq", "curl", "awc", "isahc"]);
    // the chassis' are the server and the channels to our own services; the others are tools that no shop runs
    assert_eq!(callers, ["mercato-bench", "mercato-chaos", "mercato-chassis", "mercato-payment", "mercato-provider"]);
}

/// sqlx takes only SQL that is written in the code, unless somebody vouches for a text; no service does.
#[test]
fn no_service_puts_sql_together() {
    let shop = ["catalog", "chassis", "customer", "inventory", "mercato", "ordering", "payment"];
    let sources = shop.iter().map(|service| root().join("services").join(service).join("src")).chain([root().join("gateway/src")]);
    let files: Vec<_> = sources.flat_map(|folder| shape::rust_files(&folder)).collect();
    assert!(files.iter().any(|(_, text)| text.contains("sqlx::query")), "the files were not found");
    let (operators, vouched): (Vec<_>, Vec<_>) = files
        .iter()
        .filter(|(_, text)| text.contains("AssertSqlSafe"))
        .partition(|(path, _)| path.ends_with("chassis/src/boot/console.rs"));
    assert_eq!(operators.len(), 1, "an operator's own statement, asked at the machine, is the one exception");
    none(vouched.iter().map(|(path, _)| format!("{} puts SQL together", path.display())).collect());
}
