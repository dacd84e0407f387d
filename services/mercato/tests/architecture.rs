//! Rules of the tree that no compiler holds: who may depend on whom, that every reason has its page, that the chassis knows no commerce,
//! that files stay readable and services look alike. Each rule is proved by a planted fault.

#[path = "rules/mod.rs"]
mod rules;

use rules::{graph, shape, words};
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
