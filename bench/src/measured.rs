//! A load and what it cost, and the two tables every scenario prints of them: rates beside the floor, and CPU of each process.

use crate::load::Outcome;
use crate::processes::{Cost, Processes};
use crate::report::{Table, millis, millis_each, rate};

/// A load that was measured.
pub struct Measured {
    /// What it is called in the tables.
    pub name: String,
    /// Its operations.
    pub outcome: Outcome,
    /// CPU of everybody meanwhile.
    pub cost: Cost,
}

impl Measured {
    /// Operations with a good answer.
    pub fn count(&self) -> u64 {
        self.outcome.latencies.count()
    }

    /// Operations a second.
    pub fn rate(&self) -> f64 {
        rate(self.count(), self.outcome.time)
    }
}

/// How many times a floor something reaches, as text; `-` beside a floor that reached nothing.
pub fn times(reached: f64, floor: f64) -> String {
    if floor > 0.0 { format!("{:.1} x", reached / floor) } else { "-".to_owned() }
}

/// Rates and latencies; the last of the loads is the floor.
pub fn rates(what: &str, loads: &[&Measured]) -> Table {
    let mut table = Table::new(["load", &format!("{what}/s"), "of floor", "p50 ms", "p99 ms", "p99.9 ms", "failed", "others"]);
    let floor = loads.last().map_or(0.0, |l| l.rate());
    for load in loads {
        let mut row = vec![load.name.clone(), format!("{:.0}", load.rate()), times(load.rate(), floor)];
        row.extend(load.outcome.latencies.percentiles([500, 990, 999]).map(millis));
        row.extend([load.outcome.failed.to_string(), load.cost.others()]);
        eprintln!("{}: {:.0} {what} a second", load.name, load.rate());
        if let Some(error) = &load.outcome.error {
            eprintln!("{}: {} failed, the first: {error}", load.name, load.outcome.failed);
        }
        table.row(row);
    }
    table
}

/// CPU of each process for one operation, a column a load. Idle use is included.
pub fn costs(what: &str, processes: &Processes, loads: &[&Measured]) -> Table {
    let columns = std::iter::once(format!("CPU ms for one {what}")).chain(loads.iter().map(|l| l.name.clone()));
    let mut table = Table::new(columns);
    let names: Vec<&str> = processes.list().iter().map(|p| p.name.as_str()).collect();
    let mut row = |title: &str, names: &[&str]| {
        let cells = loads.iter().map(|l| millis_each(names.iter().map(|n| l.cost.of(n)).sum(), l.count()));
        table.row(std::iter::once(title.to_owned()).chain(cells).collect());
    };
    for name in &names {
        row(name, &[name]);
    }
    row("everything", &names);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_a_multiple_of_nothing() {
        assert_eq!((times(30.0, 2.0).as_str(), times(30.0, 0.0).as_str()), ("15.0 x", "-"));
    }
}
