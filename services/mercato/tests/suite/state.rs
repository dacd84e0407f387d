//! What the shop has stored, and whether its processes still stand.

use super::{
    door,
    inputs::{World, still_served},
    shop::shop,
    until,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::collections::{BTreeMap, BTreeSet};

one_at_a_time!(of_an_order_is_seen_in_every_table_it_touches);

/// Tables that tell nothing about the business: what the chassis needs to do its work, and the count of logins that failed.
const BESIDE: &[&str] =
    &["_sqlx_migrations", "_chassis_migrations", "outbox", "relay_lease", "inbox_sequence", "idempotency", "work", "login_attempt"];

/// How many rows each table has, and a hash over them.
pub type State = BTreeMap<String, (i64, String)>;

/// What is stored once nothing is under way any more.
pub async fn at_rest() -> State {
    let mut before = None;
    until("the shop is at rest", async || {
        let idle = events_under_way().await == 0;
        let now = look().await;
        let rests = idle && before.as_ref() == Some(&now);
        before = Some(now.clone());
        if !rests {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
        rests.then_some(now)
    })
    .await
}

/// The tables that differ.
fn differ(before: &State, after: &State) -> Vec<String> {
    let tables: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    tables.into_iter().filter(|table| before.get(*table) != after.get(*table)).cloned().collect()
}

/// Fails with the tables that differ.
#[track_caller]
pub fn unchanged(before: &State, after: &State) {
    let differ = differ(before, after);
    assert!(differ.is_empty(), "what was refused changed {differ:?}");
}

/// The planted change: without it, a look that sees nothing would pass for a shop in which nothing changes.
async fn of_an_order_is_seen_in_every_table_it_touches() {
    let world = World::new(&door::grpc()).await;
    let before = at_rest().await;
    unchanged(&before, &at_rest().await);
    still_served(&world).await;
    let differ = differ(&before, &at_rest().await);
    for table in
        ["ordering.orders", "ordering.order_event", "inventory.stock", "inventory.stock_ledger", "payment.payment", "payment.posting"]
    {
        assert!(differ.iter().any(|seen| seen == table), "{table} is not in {differ:?}");
    }
}

async fn events_under_way() -> i64 {
    let mut waiting = 0;
    for (_, url) in &shop().databases {
        let mut database = PgConnection::connect(url).await.expect("a database");
        let count = "select (select count(*) from outbox) + (select count(*) from work where due_at < now() or lease_until > now())";
        waiting += sqlx::query_scalar::<_, i64>(count).fetch_one(&mut database).await.expect("a count");
    }
    for (owner, said, hearer, heard) in LAGS {
        waiting += (number(owner, said).await - number(hearer, heard).await).abs();
    }
    waiting
}

/// An event that has left the outbox and is not consumed yet is in no table: the versions of a topic's owner against what was heard of them.
/// (owner, its sum, hearer, its sum)
const LAGS: [(&str, &str, &str, &str); 3] = [
    (
        "ordering",
        "select coalesce(sum(version), 0)::bigint from orders",
        "payment",
        "select coalesce(sum(last_seq), 0)::bigint from inbox_sequence where consumer = 'payment.orders' and topic = 'orders'",
    ),
    (
        "payment",
        "select coalesce(sum(version), 0)::bigint from payment",
        "ordering",
        "select coalesce(sum(last_seq), 0)::bigint from inbox_sequence where consumer = 'ordering.payments' and topic = 'payments'",
    ),
    (
        "inventory",
        "select coalesce(sum(version), 0)::bigint from product_version",
        "catalog",
        "select coalesce(sum(version), 0)::bigint from product_stock",
    ),
];

async fn number(role: &str, query: &'static str) -> i64 {
    let (_, url) = shop().databases.iter().find(|(name, _)| *name == role).expect("a role with a database");
    let mut database = PgConnection::connect(url).await.expect("a database");
    sqlx::query_scalar(query).fetch_one(&mut database).await.expect("a number")
}

async fn look() -> State {
    let mut state = State::new();
    for (role, url) in &shop().databases {
        let mut database = PgConnection::connect(url).await.expect("a database");
        let tables: Vec<String> = sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'public'")
            .fetch_all(&mut database)
            .await
            .expect("the tables");
        for table in tables.into_iter().filter(|table| !BESIDE.contains(&table.as_str())) {
            let sql = format!(
                "select count(*), coalesce(md5(string_agg(h, '' order by h)), '') from (select md5(t::text) h from \"{table}\" t) r"
            );
            let rows = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut database).await.expect("the rows");
            state.insert(format!("{role}.{table}"), rows);
        }
    }
    assert!(state.len() > 15, "the tables were not found: {state:?}");
    state
}

/// What the scenario before did to the sign-ins from our address is none of this one's business.
pub async fn forget_failed_logins() {
    let (_, url) = shop().databases.iter().find(|(role, _)| *role == "customer").expect("the customer database");
    let mut database = PgConnection::connect(url).await.expect("a database");
    sqlx::query("delete from login_attempt").execute(&mut database).await.expect("the counters are gone");
}

/// Every process is still the one that was started, and none has panicked, not even in a task that was caught.
pub fn everything_stands() {
    let shop = shop();
    for (name, process) in &shop.processes {
        let state = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let alive = state.lines().any(|line| line.starts_with("State:") && !line.contains('Z'));
        assert!(alive, "{name} (process {process}) has ended; its log is in {}", shop.logs.display());
        let log = std::fs::read_to_string(shop.logs.join(format!("{name}.log"))).expect("a log");
        let panicked = log.lines().find(|line| line.contains("panicked"));
        assert!(panicked.is_none(), "{name}: {panicked:?}");
    }
}
