//! Waits until nothing moves any more, and says what does when it takes too long.

use crate::world::World;
use anyhow::{Context, Result};
use sqlx::{Connection as _, PgConnection};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// How long it must be quiet.
pub const QUIET: Duration = Duration::from_secs(5);

/// What each role's database says of unfinished business: (what, how many); rows with zero are left out.
const BUSY: &str = "select * from (values
    ('events in the outbox', (select count(*) from outbox)),
    ('parked events', (select count(*) from parked)),
    ('steps due', (select count(*) from work where due_at <= now() + interval '1 second' or lease_until > now()))) as b(what, n) where n > 0";
const OPEN_ORDERS: &str = "select 'open orders', count(*) from orders where open having count(*) > 0";
const ACTIVE_HOLDS: &str = "select 'active holds', count(*) from reservation where status = 'ACTIVE' having count(*) > 0";
const OPEN_ATTEMPTS: &str =
    "select 'open payment attempts', count(*) from attempt where state in ('INTENT', 'UNKNOWN') having count(*) > 0";

/// A consumer's lag is the difference of two sums: of the versions its topic's owner has, and of those it has applied.
/// (owner, sum there, consumer's role, sum there, consumer)
const LAGS: &[(&str, &str, &str, &str, &str)] = &[
    (
        "ordering",
        "select coalesce(sum(version), 0)::bigint from orders",
        "payment",
        "select coalesce(sum(last_seq), 0)::bigint from inbox_sequence where consumer = 'payment.orders' and topic = 'orders'",
        "payment.orders",
    ),
    (
        "payment",
        "select coalesce(sum(version), 0)::bigint from payment",
        "ordering",
        "select coalesce(sum(last_seq), 0)::bigint from inbox_sequence where consumer = 'ordering.payments' and topic = 'payments'",
        "ordering.payments",
    ),
    // Keeps no memory of events: each carries the version of what it says.
    (
        "inventory",
        "select coalesce(sum(version), 0)::bigint from product_version",
        "catalog",
        "select coalesce(sum(version), 0)::bigint from product_stock",
        "catalog.inventory",
    ),
];

/// Waits until it has been quiet for [`QUIET`]; an empty list then, else what was still moving when `limit` was over.
///
/// # Errors
/// When a database cannot be read at all.
pub async fn settle(world: &World, limit: Duration) -> Result<Vec<String>> {
    let end = Instant::now() + limit;
    let mut quiet_since = None;
    loop {
        let busy = busy(world).await?;
        if !busy.is_empty() {
            quiet_since = None;
            if Instant::now() > end {
                return Ok(busy);
            }
        } else if quiet_since.get_or_insert_with(Instant::now).elapsed() >= QUIET {
            return Ok(busy);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// What is moving now.
///
/// # Errors
/// When a database cannot be read.
pub async fn busy(world: &World) -> Result<Vec<String>> {
    let mut busy = Vec::new();
    let mut databases = BTreeMap::new();
    for role in crate::world::STORES {
        let url = world.database_url(&format!("mercato_{role}"))?;
        let mut db = PgConnection::connect(&url).await.with_context(|| format!("the database of {role}"))?;
        let own = match role {
            "ordering" => Some(OPEN_ORDERS),
            "inventory" => Some(ACTIVE_HOLDS),
            "payment" => Some(OPEN_ATTEMPTS),
            _ => None,
        };
        for sql in std::iter::once(BUSY).chain(own) {
            let rows: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(&mut db).await?;
            busy.extend(rows.into_iter().map(|(what, n)| format!("{role}: {n} {what}")));
        }
        databases.insert(role, db);
    }
    for (owner, versions, role, heard, consumer) in LAGS {
        let written: i64 = sqlx::query_scalar(*versions).fetch_one(databases.get_mut(owner).context("a role with a database")?).await?;
        let applied: i64 = sqlx::query_scalar(*heard).fetch_one(databases.get_mut(role).context("a role with a database")?).await?;
        if written != applied {
            busy.push(format!("{consumer}: {} events not applied", written - applied));
        }
    }
    Ok(busy)
}
