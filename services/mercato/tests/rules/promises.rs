//! The table of `docs/security.md`: every rule has a row, and every test that a row names is there and is a test.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// The rules are numbered up to this.
const RULES: usize = 48;
const STATES: [&str; 4] = ["held", "partly", "not yet", "does not apply"];

/// What is wrong with the table, given all files of Rust.
pub fn faults(table: &str, files: &[(PathBuf, String)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut rows: BTreeMap<String, usize> = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| S-")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, _, tests, state] = cells.as_slice() else {
            faults.push(format!("not four cells: {line}"));
            continue;
        };
        *rows.entry((*id).to_owned()).or_default() += 1;
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        let known = STATES.iter().find(|known| state.starts_with(*known));
        match known {
            None => faults.push(format!("{id}: the state `{state}` is none of {STATES:?}")),
            Some(&("held" | "partly")) if named.is_empty() => faults.push(format!("{id}: {state}, and no test")),
            _ => {}
        }
        faults.extend(named.iter().filter(|name| !is_test(name, files)).map(|name| format!("{id}: no test {name}")));
    }
    for number in 1..=RULES {
        let id = format!("S-{number:02}");
        if rows.get(&id) != Some(&1) {
            faults.push(format!("{id} has {} rows", rows.get(&id).copied().unwrap_or_default()));
        }
    }
    faults
}

/// Whether `file::name` is a test: a function with the attribute, or a scenario that a macro of the suite makes a test of.
fn is_test(name: &str, files: &[(PathBuf, String)]) -> bool {
    let Some((stem, function)) = name.rsplit_once("::") else { return false };
    let of = files.iter().filter(|(path, _)| path.with_extension("").to_string_lossy().replace('/', "::").ends_with(&format!("::{stem}")));
    of.map(|(_, text)| text).any(|text| tests(text).contains(function))
}

fn tests(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let (mut marked, mut listed) = (false, false);
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(place) = line.find("fn ").filter(|_| marked) {
            found.extend(line[place + 3..].split('(').next());
            marked = false;
        }
        let begins = ["at_both_doors!(", "alone!(", "one_at_a_time!("].iter().find_map(|name| line.strip_prefix(name));
        listed |= begins.is_some();
        if listed {
            found.extend(begins.unwrap_or(line).split([',', ')', ';', ' ']).filter(|word| !word.is_empty()));
            listed = !line.ends_with(");");
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_rows_are_found() {
        let file = |path: &str, text: &str| (PathBuf::from(path), text.to_owned());
        let files = [
            file("/a/tests/suite/owners.rs", "alone!(\n    one,\n    two\n);\nasync fn one() {}\nfn helper() {}\n"),
            file(
                "/a/src/token.rs",
                "#[tokio::test]\nasync fn three() {}\nproptest! {\n    #[test]\n    fn four(a: u8) {}\n}\nfn five() {}",
            ),
        ];
        let rows: String = (2..=RULES).map(|n| format!("| S-{n:02} | a rule | `suite::owners::two`, `token::four` | held |\n")).collect();
        let with = |first: &str| faults(&format!("{first}\n{rows}"), &files);
        assert_eq!(with("| S-01 | a rule | `owners::one`, `token::three` | held |"), Vec::<String>::new());
        for bad in [
            "",
            "| S-01 | a rule | `owners::helper` | held |",
            "| S-01 | a rule | `token::five` | held |",
            "| S-01 | a rule | `token::one` | held |",
            "| S-01 | a rule | | partly |",
            "| S-01 | a rule | | perhaps |",
            "| S-01 | a rule | `one` | held |",
            "| S-01 | a rule | held |",
        ] {
            assert!(!with(bad).is_empty(), "{bad}");
        }
    }
}
