//! Tables in Markdown, and figures as people read them.

use std::time::Duration;

/// A table under construction.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; the first is text, the others are figures.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![columns.into_iter().map(Into::into).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Prints it on standard output.
    pub fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0).max(3);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (n, row) in self.rows.iter().enumerate() {
            let cells: Vec<String> = widths.iter().enumerate().map(|(c, w)| pad(c, *w, row.get(c).map_or("", String::as_str))).collect();
            println!("| {} |", cells.join(" | "));
            if n == 0 {
                let rules: Vec<String> = widths.iter().enumerate().map(|(c, w)| rule(c, *w)).collect();
                println!("|{}|", rules.join("|"));
            }
        }
        println!();
    }
}

fn pad(column: usize, width: usize, cell: &str) -> String {
    if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
}

fn rule(column: usize, width: usize) -> String {
    let dashes = "-".repeat(width + 1);
    if column == 0 { format!("{dashes}-") } else { format!("{dashes}:") }
}

/// Milliseconds with two decimals.
pub fn millis(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

/// A share of a time among a number of operations, in microseconds; `-` when there were none.
pub fn micros_each(time: Duration, operations: u64) -> String {
    each(time, operations, 1e6, 1)
}

/// A share of a time among a number of operations, in milliseconds; `-` when there were none.
pub fn millis_each(time: Duration, operations: u64) -> String {
    each(time, operations, 1e3, 3)
}

fn each(time: Duration, operations: u64, unit: f64, decimals: usize) -> String {
    if operations == 0 {
        return "-".into();
    }
    format!("{:.decimals$}", time.as_secs_f64() * unit / number(operations))
}

/// Something a second.
pub fn rate(operations: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { number(operations) / time.as_secs_f64() }
}

/// A count as a number to divide by.
pub fn number(count: u64) -> f64 {
    // counts of a benchmark stay far below 2^32; larger ones would only lose digits
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

/// Bytes as megabytes with one decimal.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1}", number(bytes / 1024) / 1024.0)
}
