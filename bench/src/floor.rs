//! The floor of an order: one row, one durable commit, on the same PostgreSQL, in a database of its own.

use crate::load::{Caller, Outcome, closed};
use crate::processes::{Cost, Processes};
use anyhow::Context;
use sqlx::{Connection, Executor, PgConnection};
use std::time::Duration;
use uuid::Uuid;

/// Connections that insert; as many as make PostgreSQL commit in groups.
const CONNECTIONS: usize = 32;
const WARM_UP: Duration = Duration::from_millis(500);

/// Inserts rows for `time`, each of them durable before the next of its connection.
pub async fn insert(server: &str, body: &str, processes: &Processes, time: Duration) -> anyhow::Result<(Outcome, Cost)> {
    scratch(server, async |url| measure(&url, body, processes, time).await).await
}

/// Runs `work` with the URL of a new database on that server, and removes it again.
pub async fn scratch<T>(server: &str, work: impl AsyncFnOnce(String) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let name = format!("mercato_bench_{}", std::process::id());
    let mut admin = PgConnection::connect(server).await.context("postgres")?;
    admin.execute(sqlx::AssertSqlSafe(format!("drop database if exists {name} with (force)"))).await?;
    admin.execute(sqlx::AssertSqlSafe(format!("create database {name}"))).await.context("a database for the floor")?;
    let result = work(database(server, &name)).await;
    admin.execute(sqlx::AssertSqlSafe(format!("drop database {name} with (force)"))).await?;
    result
}

async fn measure(url: &str, body: &str, processes: &Processes, time: Duration) -> anyhow::Result<(Outcome, Cost)> {
    let mut callers = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        callers.push(Insert { connection: PgConnection::connect(url).await?, body: body.to_owned() });
    }
    let first = callers.first_mut().context("no connection")?;
    let table =
        "create table placed (id uuid primary key, customer_id uuid not null, body jsonb not null, at timestamptz not null default now())";
    first.connection.execute(table).await?;
    closed(&mut callers, WARM_UP).await;
    let meter = processes.start()?;
    let outcome = closed(&mut callers, time).await;
    Ok((outcome, meter.stop()?))
}

struct Insert {
    connection: PgConnection,
    body: String,
}

impl Caller for Insert {
    async fn call(&mut self, _: u64) -> anyhow::Result<()> {
        sqlx::query("insert into placed (id, customer_id, body) values ($1, $2, $3::text::jsonb)")
            .bind(Uuid::now_v7())
            .bind(Uuid::now_v7())
            .bind(&self.body)
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }
}

/// The same server's URL with another database.
pub fn database(server: &str, name: &str) -> String {
    let (base, query) = server.split_once('?').map_or((server, String::new()), |(b, q)| (b, format!("?{q}")));
    let base = base.rsplit_once('/').map_or(base, |(b, _)| b);
    format!("{base}/{name}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_database_changes() {
        assert_eq!(database("postgres://u:p@h:5/postgres?sslmode=disable", "x"), "postgres://u:p@h:5/x?sslmode=disable");
        assert_eq!(database("postgres://u:p@h:5/postgres", "x"), "postgres://u:p@h:5/x");
    }
}
