//! The reference page of all metrics.

use super::About;
use std::fmt::Write as _;

/// Metrics as a page in Markdown: a chapter for each name and its list.
pub fn reference(chapters: &[(&str, &[&About])]) -> String {
    let mut page = String::from(
        "# Metrics\n\nMade of the definitions in the code by a test (`MERCATO_UPDATE_METRICS=1` writes it anew). Every process tells its own at \
         `/metrics` of its admin\naddress. Names are `mercato_<area>_<what>_<unit>`, counters end in `_total`; `process_*` are the names every \
         exporter has. A series\nappears when it is written for the first time.\n",
    );
    for (chapter, list) in chapters {
        write!(page, "\n## {chapter}\n\n| name | kind | labels | meaning |\n|---|---|---|---|\n").expect("text can be written to");
        let mut list = list.to_vec();
        list.sort_by_key(|about| about.name);
        for about in list {
            let labels: Vec<String> = about.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, labels, help) = (about.name, about.kind.name(), labels.join(", "), about.help.trim().replace('|', "\\|"));
            writeln!(page, "| `{name}` | {kind} | {labels} | {help} |").expect("text can be written to");
        }
    }
    page
}
