//! What an order makes PostgreSQL do, from its own statistics.

use crate::floor;
use crate::report::{Table, number};
use anyhow::Context;
use sqlx::{Connection, PgConnection};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Counters of each of the shop's databases, in the order of [`COLUMNS`].
#[derive(Debug, Default)]
pub struct Work(BTreeMap<String, [i64; 4]>);

const COLUMNS: [&str; 4] = ["transactions", "rows inserted", "rows updated", "rows deleted"];

/// Reads the counters. They lag by up to a second.
pub async fn work(server: &str) -> anyhow::Result<Work> {
    let mut connection = PgConnection::connect(server).await.context("postgres")?;
    let rows: Vec<(String, i64, i64, i64, i64)> = sqlx::query_as(
        "select datname::text, xact_commit + xact_rollback, tup_inserted, tup_updated, tup_deleted from pg_stat_database \
         where datname like 'mercato\\_%' and datname not like 'mercato\\_bench%'",
    )
    .fetch_all(&mut connection)
    .await?;
    Ok(Work(rows.into_iter().map(|(name, a, b, c, d)| (name, [a, b, c, d])).collect()))
}

impl Work {
    /// What was counted since `before`.
    pub fn since(&self, before: &Work) -> Work {
        let less = |name: &str, now: &[i64; 4]| {
            let then = before.0.get(name).copied().unwrap_or_default();
            std::array::from_fn(|n| now.get(n).copied().unwrap_or_default() - then.get(n).copied().unwrap_or_default())
        };
        Work(self.0.iter().map(|(name, now)| (name.clone(), less(name, now))).collect())
    }

    /// The counts divided by a number of orders; a database that had nothing to do with them is left out.
    pub fn table(&self, orders: u64) -> Table {
        let mut table = Table::new(["in PostgreSQL for one order"].into_iter().chain(COLUMNS));
        let mut sum = [0; 4];
        let row = |name: &str, counts: &[i64; 4]| {
            let each = |n: &i64| match orders {
                0 => "-".to_owned(),
                _ => format!("{:.2}", number(u64::try_from(*n).unwrap_or_default()) / number(orders)),
            };
            std::iter::once(name.to_owned()).chain(counts.iter().map(each)).collect()
        };
        for (name, counts) in self.0.iter().filter(|(_, counts)| worked(counts, orders)) {
            table.row(row(name, counts));
            for (total, count) in sum.iter_mut().zip(counts) {
                *total += count;
            }
        }
        table.row(row("all", &sum));
        table
    }
}

/// Whether a database shows in two decimals: those of the tests only have the statistics' own visits.
fn worked(counts: &[i64; 4], orders: u64) -> bool {
    counts.iter().any(|n| number(u64::try_from(*n).unwrap_or_default()) >= number(orders) * 0.005)
}

/// Waits until all events of a role are sent: until its outbox is empty. Whether it came to that within `patience`.
pub async fn drained(server: &str, role: &str, patience: Duration) -> anyhow::Result<bool> {
    let mut connection = PgConnection::connect(&floor::database(server, &format!("mercato_{role}"))).await?;
    let began = Instant::now();
    while began.elapsed() < patience {
        if !sqlx::query_scalar("select exists (select from outbox)").fetch_one(&mut connection).await? {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_without_a_share_in_the_orders_is_left_out() {
        assert!(worked(&[10, 0, 0, 0], 1000));
        assert!(!worked(&[4, 0, 0, 0], 1000));
    }
}
