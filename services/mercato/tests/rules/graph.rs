//! Who may depend on whom. `mercato` alone knows the services; they know the contracts, the chassis, and nobody else.

use serde_json::Value;
use std::{path::Path, process::Command};

/// A package of ours and the packages of ours it needs.
#[derive(Debug, Clone, Default)]
pub struct Package {
    name: String,
    /// To build and to run.
    needs: Vec<String>,
    /// For tests.
    tests_with: Vec<String>,
}

/// Asks cargo.
pub fn read(root: &Path) -> Vec<Package> {
    metadata(root)["packages"].as_array().expect("packages").iter().map(package).collect()
}

/// The packages of ours that need one of these to run, in the order of their names.
pub fn needing(root: &Path, wanted: &[&str]) -> Vec<String> {
    let metadata = metadata(root);
    let needs = |package: &&Value| {
        let mut all = package["dependencies"].as_array().expect("dependencies").iter();
        all.any(|dependency| dependency["kind"].is_null() && wanted.contains(&dependency["name"].as_str().unwrap_or_default()))
    };
    let mut found: Vec<String> =
        metadata["packages"].as_array().expect("packages").iter().filter(needs).map(|package| word(&package["name"])).collect();
    found.sort();
    found
}

fn metadata(root: &Path) -> Value {
    let mut command = Command::new(env!("CARGO"));
    let output =
        command.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(root).output().expect("cargo runs");
    serde_json::from_slice(&output.stdout).expect("cargo's JSON")
}

fn package(value: &Value) -> Package {
    let mut package = Package { name: word(&value["name"]), ..Package::default() };
    for dependency in value["dependencies"].as_array().expect("dependencies") {
        let name = word(&dependency["name"]);
        if ours(&name) {
            let list = if dependency["kind"] == "dev" { &mut package.tests_with } else { &mut package.needs };
            list.push(name);
        }
    }
    package
}

fn word(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn ours(name: &str) -> bool {
    name == "mercato" || name.starts_with("mercato-")
}

/// What a package may need, and what its tests may need beside.
fn allowed(name: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match name {
        "mercato-contracts" | "mercato-provider" => (&[], &[]),
        "mercato-chassis" => (&["mercato-contracts"], &["mercato-testkit"]),
        "mercato-testkit" => (&["mercato-contracts", "mercato-chassis"], &[]),
        // its tests run against the development provider, which is a server of its own
        "mercato-payment" => (&["mercato-contracts", "mercato-chassis"], &["mercato-testkit", "mercato-provider"]),
        // it plays the provider's part with forged messages and, with the chassis' migrations, that of the next release
        "mercato-chaos" => (&["mercato-contracts", "mercato-provider", "mercato-chassis"], &["mercato-testkit"]),
        _ => (&["mercato-contracts", "mercato-chassis"], &["mercato-testkit"]),
    }
}

/// What is wrong with the graph.
pub fn faults(packages: &[Package]) -> Vec<String> {
    let mut faults = Vec::new();
    for package in packages {
        let name = &package.name;
        if name == "mercato" {
            if package.needs.iter().any(|need| need == "mercato-testkit") {
                faults.push("mercato needs mercato-testkit outside of tests".into());
            }
            continue;
        }
        let (needs, tests_with) = allowed(name);
        let strange = package.needs.iter().filter(|need| !needs.contains(&need.as_str()));
        faults.extend(strange.map(|need| format!("{name} must not need {need}")));
        let strange = package.tests_with.iter().filter(|need| !needs.contains(&need.as_str()) && !tests_with.contains(&need.as_str()));
        faults.extend(strange.map(|need| format!("{name}'s tests must not need {need}")));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, needs: &[&str], tests_with: &[&str]) -> Package {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Package { name: name.into(), needs: own(needs), tests_with: own(tests_with) }
    }

    #[test]
    fn planted_dependencies_are_found() {
        for (name, needs, tests_with) in [
            ("mercato-ordering", &["mercato-inventory"][..], &[][..]),
            ("mercato-ordering", &["mercato-testkit"], &[]),
            ("mercato-ordering", &[], &["mercato-payment"]),
            ("mercato-gateway", &["mercato"], &[]),
            ("mercato-chassis", &["mercato-catalog"], &[]),
            ("mercato-contracts", &["mercato-chassis"], &[]),
            ("mercato-inventory", &[], &["mercato-provider"]),
            ("mercato", &["mercato-testkit"], &[]),
        ] {
            assert_eq!(faults(&[package(name, needs, tests_with)]).len(), 1, "{name} {needs:?} {tests_with:?}");
        }
        let good = ["mercato-contracts", "mercato-chassis"];
        assert!(
            faults(&[package("mercato-ordering", &good, &["mercato-testkit"]), package("mercato", &["mercato-ordering"], &[])]).is_empty()
        );
    }
}
