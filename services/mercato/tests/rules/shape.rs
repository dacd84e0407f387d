//! How long files are, what a service consists of, and that every refusal is explained.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// The services.
pub const SERVICES: &[&str] = &["catalog", "inventory", "ordering", "payment", "customer"];
/// What each has.
const ANATOMY: &[&str] =
    &["src/lib.rs", "src/error.rs", "src/domain", "src/app", "src/grpc", "README.md", "migrations", "sqlx.toml", "tests/it/main.rs"];
/// The most lines a file of code may have.
const LONGEST: usize = 500;

/// All files of Rust below a folder, with their text.
pub fn rust_files(folder: &Path) -> Vec<(PathBuf, String)> {
    below(folder, "rs")
}

fn below(folder: &Path, extension: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(below(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            found.push((path, text));
        }
    }
    found
}

/// Files with more lines than a reader wants.
pub fn too_long(files: &[(PathBuf, String)]) -> Vec<String> {
    let long = files.iter().map(|(path, text)| (path, text.lines().count())).filter(|(_, lines)| *lines > LONGEST);
    long.map(|(path, lines)| format!("{} has {lines} lines", path.display())).collect()
}

/// What a service lacks.
pub fn missing(service: &Path) -> Vec<String> {
    ANATOMY
        .iter()
        .map(|part| service.join(part))
        .filter(|path| !path.exists())
        .map(|path| format!("{} is missing", path.display()))
        .collect()
}

/// The reasons of all `errors.proto` below a folder.
pub fn reasons(folder: &Path) -> BTreeSet<String> {
    let files = below(folder, "proto").into_iter().filter(|(path, _)| path.ends_with("errors.proto"));
    files.flat_map(|(_, text)| reasons_of(&text)).collect()
}

/// The values of the enum `Reason`, but for the first, which is not used.
fn reasons_of(text: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| !line.starts_with("enum Reason {")).skip(1).take_while(|line| *line != "}");
    let names =
        lines.filter(|line| !line.trim().starts_with("//")).filter_map(|line| line.split_once('=').map(|(name, _)| name.trim().to_owned()));
    names.filter(|name| name != "REASON_UNSPECIFIED").collect()
}

/// The names of the pages in a folder.
pub fn pages(folder: &Path) -> BTreeSet<String> {
    let names = below(folder, "md").into_iter().filter_map(|(path, _)| Some(path.file_stem()?.to_str()?.to_owned()));
    names.filter(|name| name != "README").collect()
}

/// Reasons without a page, and pages without a reason.
pub fn unpaired(reasons: &BTreeSet<String>, pages: &BTreeSet<String>) -> Vec<String> {
    let without_page = reasons.difference(pages).map(|name| format!("{name} has no page docs/errors/{name}.md"));
    let without_reason = pages.difference(reasons).map(|name| format!("docs/errors/{name}.md explains no reason"));
    without_page.chain(without_reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_planted_long_file_is_found() {
        let file = |lines: usize| (PathBuf::from("a.rs"), "x\n".repeat(lines));
        assert_eq!(too_long(&[file(LONGEST), file(LONGEST + 1)]).len(), 1);
    }

    #[test]
    fn a_planted_unpaired_reason_or_page_is_found() {
        assert_eq!(unpaired(&set(&["A", "B"]), &set(&["B", "C"])).len(), 2);
        assert!(unpaired(&set(&["A"]), &set(&["A"])).is_empty());
        let proto =
            "enum Other {\n  X = 1;\n}\nenum Reason {\n  // Not = used.\n  REASON_UNSPECIFIED = 0;\n  // NOT_FOUND: no.\n  LOST = 1;\n}\n";
        assert_eq!(reasons_of(proto), ["LOST"]);
    }

    #[test]
    fn a_planted_bare_service_is_found() {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bare-service");
        std::fs::create_dir_all(folder.join("src")).expect("a folder");
        std::fs::write(folder.join("src/lib.rs"), "").expect("a file");
        assert_eq!(missing(&folder).len(), ANATOMY.len() - 1);
    }
}
