//! What the shop says about itself on `/metrics`.

use crate::processes::Processes;
use crate::report::Table;
use crate::rest::{Ask, Connection};
use anyhow::Context;
use std::collections::BTreeMap;

/// The processes that are the shop itself, all roles together or each apart.
pub const OWN: &[&str] = &["mercato", "catalog", "inventory", "ordering", "payment", "customer", "gateway"];

/// Where a process of the shop has its admin server.
pub fn admin(name: &str) -> anyhow::Result<String> {
    let variable = if name == "mercato" { "MERCATO_ADMIN".to_owned() } else { format!("MERCATO_ADMIN_{}", name.to_uppercase()) };
    std::env::var(&variable).with_context(|| format!("{variable} is not set"))
}

/// All figures of all the shop's processes, added up by their full names.
pub async fn figures(processes: &Processes) -> anyhow::Result<Figures> {
    let mut all = Figures::default();
    for process in processes.list().iter().filter(|p| OWN.contains(&p.name.as_str())) {
        let answer = Connection::to(&admin(&process.name)?).send(&Ask::get("/metrics")).await?;
        anyhow::ensure!(answer.status.is_success(), "/metrics of {}: {}", process.name, answer.status);
        all.read(&String::from_utf8_lossy(&answer.body));
    }
    Ok(all)
}

/// Figures by name with labels, as in the text form of Prometheus.
#[derive(Debug, Default)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    fn read(&mut self, text: &str) {
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            if let Some((name, value)) = line.rsplit_once(' ').and_then(|(name, value)| Some((name, value.parse::<f64>().ok()?))) {
                *self.0.entry(name.to_owned()).or_default() += value;
            }
        }
    }

    /// One figure over all its labels; zero when nobody counts it.
    pub fn sum(&self, metric: &str) -> f64 {
        self.0.iter().filter(|(name, _)| name.split('{').next() == Some(metric)).map(|(_, v)| v).sum()
    }

    /// Of each histogram of sizes: how often since `before`, and what it came to together.
    fn sizes(&self, before: &Figures) -> BTreeMap<String, (f64, f64)> {
        let since = |name: &str| self.0.get(name).copied().unwrap_or_default() - before.0.get(name).copied().unwrap_or_default();
        self.0
            .keys()
            .filter_map(|name| {
                let (metric, labels) = name.split_once("_size_items_count")?;
                let (count, sum) = (since(name), since(&format!("{metric}_size_items_sum{labels}")));
                (count > 0.0).then(|| (title(metric, labels), (count, sum)))
            })
            .collect()
    }

    /// How many went together since `before`, batch by batch; `orders` were paid meanwhile.
    pub fn batches(&self, before: &Figures, orders: f64) -> Table {
        let mut table = Table::new(["batches", "flushes", "items", "items a flush", "flushes for one order"]);
        for (name, (count, sum)) in self.sizes(before) {
            let each = if orders > 0.0 { format!("{:.2}", count / orders) } else { "-".to_owned() };
            table.row(vec![name, format!("{count:.0}"), format!("{sum:.0}"), format!("{:.1}", sum / count), each]);
        }
        table
    }
}

/// `mercato_batch_size_items{batch="orders"}` is known as `batch orders`.
fn title(metric: &str, labels: &str) -> String {
    let values = labels.split('"').skip(1).step_by(2);
    std::iter::once(metric.strip_prefix("mercato_").unwrap_or(metric)).chain(values).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(count: u32, sum: u32) -> Figures {
        let mut figures = Figures::default();
        figures.read(&format!(
            "# TYPE mercato_batch_size_items histogram\nmercato_batch_size_items_bucket{{batch=\"orders\",le=\"1\"}} 1\n\
             mercato_batch_size_items_sum{{batch=\"orders\"}} {sum}\nmercato_batch_size_items_count{{batch=\"orders\"}} {count}\n\
             idle_size_items_count{{batch=\"x\"}} 5\nidle_size_items_sum{{batch=\"x\"}} 5\n"
        ));
        figures
    }

    #[test]
    fn only_what_was_flushed_meanwhile_counts() {
        let sizes = figures(30, 210).sizes(&figures(10, 10));
        assert_eq!(sizes, BTreeMap::from([("batch orders".to_owned(), (20.0, 200.0))]));
    }

    #[test]
    fn labels_are_added_up() {
        let mut figures = Figures::default();
        figures.read("watches{role=\"a\"} 3\nwatches{role=\"b\"} 4\nwatches_total 9\n");
        assert!((figures.sum("watches") - 7.0).abs() < f64::EPSILON);
    }
}
