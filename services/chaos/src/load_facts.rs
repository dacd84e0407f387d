//! Reads the facts: each database in one snapshot, every topic from its first record to its last, the provider's ledger page by page.

use crate::{
    door::seen_message,
    facts::{Facts, Hold, HoldLine, LedgerLine, OrderEvent, OrderRow, PaymentRow, Plumbing, ProviderEntry, Record, Stock, StockChange},
    world::{STORES, World},
};
use anyhow::{Context, Result, ensure};
use mercato_contracts::mercato::ordering::v1::{Order, order};
use prost::Message as _;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{BorrowedMessage, Headers as _},
};
use sqlx::{Connection as _, Executor as _, FromRow, PgConnection, postgres::PgRow};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The shop's topics.
pub const TOPICS: [&str; 5] = ["orders", "inventory", "payments", "catalog", "customers"];
const READ: Duration = Duration::from_secs(60);
const PAGE: usize = 1000;

/// Reads everything but the history.
///
/// # Errors
/// When a store cannot be read.
pub async fn load(world: &World) -> Result<Facts> {
    let mut facts = Facts::default();
    for role in STORES {
        let mut db = snapshot(world, role).await?;
        facts.plumbing.insert(role.to_owned(), plumbing(&mut db).await.with_context(|| format!("the tables of {role}"))?);
        let read = match role {
            "ordering" => ordering(&mut db, &mut facts).await,
            "inventory" => inventory(&mut db, &mut facts).await,
            "payment" => payment(&mut db, &mut facts).await,
            "catalog" => catalog(&mut db, &mut facts).await,
            _ => versions(&mut db, &mut facts, "customers", "select id, version from customer").await,
        };
        read.with_context(|| format!("the database of {role}"))?;
    }
    let (brokers, prefix) = (world.brokers(), world.topic_prefix());
    facts.topics = tokio::task::spawn_blocking(move || {
        TOPICS.iter().map(|topic| Ok(((*topic).to_owned(), read_topic(&brokers, &format!("{prefix}{topic}"))?))).collect::<Result<_>>()
    })
    .await??;
    facts.provider = provider(&world.provider()).await?;
    Ok(facts)
}

/// One moment of a role's database.
async fn snapshot(world: &World, role: &str) -> Result<PgConnection> {
    let mut db = PgConnection::connect(&world.database_url(&format!("mercato_{role}"))?).await?;
    db.execute("begin isolation level repeatable read read only").await?;
    Ok(db)
}

async fn rows<T>(db: &mut PgConnection, sql: &'static str) -> Result<Vec<T>>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    sqlx::query_as(sql).fetch_all(db).await.with_context(|| sql.to_owned())
}

async fn plumbing(db: &mut PgConnection) -> Result<Plumbing> {
    let counts: Vec<(i64, i64, i64, i64, i64)> = rows(
        db,
        "select (select count(*) from outbox), (select count(*) from outbox_dead), (select count(*) from parked),
                (select count(*) from dead_letter where closed_at is null),
                (select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'
                   and application_name like 'mercato%' and state_change < clock_timestamp() - interval '4 seconds')",
    )
    .await?;
    let (outbox, outbox_dead, parked, dead_letters, idle_in_transaction) = counts.first().copied().context("one row of counts")?;
    Ok(Plumbing {
        outbox,
        outbox_dead,
        parked,
        dead_letters,
        idle_in_transaction,
        applied: rows(db, "select consumer, topic, aggregate, last_seq from inbox_sequence").await?,
    })
}

async fn versions(db: &mut PgConnection, facts: &mut Facts, topic: &str, sql: &'static str) -> Result<()> {
    let rows: Vec<(Uuid, i64)> = rows(db, sql).await?;
    facts.versions.extend(rows.into_iter().map(|(id, version)| ((topic.to_owned(), id), version)));
    Ok(())
}

type OrderTuple = (Uuid, Uuid, i16, i16, bool, bool, i64, Vec<u8>);

async fn ordering(db: &mut PgConnection, facts: &mut Facts) -> Result<()> {
    let orders: Vec<OrderTuple> =
        rows(db, "select id, customer_id, status, payment_status, open, stock_held, version, snapshot from orders").await?;
    facts.orders = orders.into_iter().map(order_row).collect::<Result<_>>()?;
    let events: Vec<(Uuid, i64, String, Vec<u8>)> =
        rows(db, "select order_id, version, kind, payload from order_event order by order_id, version").await?;
    facts.order_events = events.into_iter().map(|(order, version, kind, payload)| OrderEvent { order, version, kind, payload }).collect();
    facts.keys = rows(db, "select subject, method, key, code is not null from idempotency").await?;
    versions(db, facts, "orders", "select id, version from orders").await
}

fn order_row((id, customer, status, payment_status, open, stock_held, version, snapshot): OrderTuple) -> Result<OrderRow> {
    let message = Order::decode(snapshot.as_slice()).with_context(|| format!("the snapshot of {id}"))?;
    let seen = seen_message(&message).with_context(|| format!("the snapshot of {id} is not whole"))?;
    let status = order::Status::try_from(i32::from(status)).with_context(|| format!("the status of {id}"))?;
    let payment = order::PaymentStatus::try_from(i32::from(payment_status)).with_context(|| format!("the payment status of {id}"))?;
    Ok(OrderRow {
        id,
        customer,
        status: status.as_str_name().to_owned(),
        payment_status: payment.as_str_name().to_owned(),
        reason: message.status_reason,
        open,
        stock_held,
        version,
        lines: seen.lines,
        total: seen.total,
        snapshot: (seen.status, seen.version),
    })
}

async fn inventory(db: &mut PgConnection, facts: &mut Facts) -> Result<()> {
    let holds: Vec<(Uuid, String, i64, bool)> =
        rows(db, "select order_id, status, version, status = 'EXPIRED' and updated_at < expires_at from reservation").await?;
    facts.holds = holds.into_iter().map(|(order, status, version, early)| Hold { order, status, version, early }).collect();
    let lines: Vec<(Uuid, Uuid, String, i64)> =
        rows(db, "select order_id, product_id, warehouse_id, quantity from reservation_line").await?;
    facts.hold_lines = lines.into_iter().map(|(order, product, warehouse, units)| HoldLine { order, product, warehouse, units }).collect();
    let stock: Vec<(Uuid, String, i64, i64)> = rows(db, "select product_id, warehouse_id, on_hand, available from stock").await?;
    facts.stock =
        stock.into_iter().map(|(product, warehouse, on_hand, available)| Stock { product, warehouse, on_hand, available }).collect();
    let changes: Vec<(Uuid, String, i64, i64, String, Option<Uuid>)> =
        rows(db, "select product_id, warehouse_id, level_delta, available_delta, cause, order_id from stock_ledger order by id").await?;
    facts.stock_ledger = changes
        .into_iter()
        .map(|(product, warehouse, level, available, cause, order)| StockChange { product, warehouse, level, available, cause, order })
        .collect();
    versions(db, facts, "inventory", "select order_id, version from reservation").await?;
    versions(db, facts, "inventory", "select product_id, version from product_version").await
}

async fn payment(db: &mut PgConnection, facts: &mut Facts) -> Result<()> {
    let payments: Vec<(Uuid, String, i64, i64, i64, i64)> =
        rows(db, "select order_id, status, amount_minor, captured_minor, refunded_minor, version from payment").await?;
    facts.payments = payments
        .into_iter()
        .map(|(order, status, amount, captured, refunded, version)| PaymentRow { order, status, amount, captured, refunded, version })
        .collect();
    let lines: Vec<(Uuid, String, String, String, i64, String, String)> = rows(
        db,
        "select l.tx_id, a.step, l.account, l.side, l.amount_minor, l.currency, l.provider_ref from ledger l join attempt a on a.id = l.tx_id",
    )
    .await?;
    facts.ledger = lines
        .into_iter()
        .map(|(tx, step, account, side, amount, currency, provider_ref)| LedgerLine {
            tx,
            step,
            account,
            side,
            amount,
            currency,
            provider_ref,
        })
        .collect();
    let cases: Vec<(Uuid,)> = rows(db, "select order_id from operator_case where closed_at is null").await?;
    facts.open_cases = cases.into_iter().map(|(order,)| order).collect();
    facts.attempts_in_doubt = rows(
        db,
        "select p.order_id, a.step || ' ' || a.state || ' ' || a.detail from attempt a join payment p on p.id = a.payment_id
         where a.state in ('INTENT', 'UNKNOWN')",
    )
    .await?;
    versions(db, facts, "payments", "select order_id, version from payment").await
}

async fn catalog(db: &mut PgConnection, facts: &mut Facts) -> Result<()> {
    let shown: Vec<(Uuid, i64, i64)> = rows(db, "select product_id, available, version from product_stock").await?;
    facts.shown_stock = shown.into_iter().map(|(product, available, version)| (product, (available, version))).collect();
    versions(db, facts, "catalog", "select id, version from product").await
}

/// Reads a topic from its first record to its present end.
///
/// # Errors
/// When the broker does not deliver it in time, or a record is no event.
pub fn read_topic(brokers: &str, topic: &str) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    each_message(brokers, topic, |message| {
        records.push(record(message)?);
        Ok(())
    })?;
    records.sort_by_key(|record| record.at);
    Ok(records)
}

/// Shows key, headers and content of every record of a topic as they are.
///
/// # Errors
/// When the broker does not deliver it in time.
pub fn raw_topic(brokers: &str, topic: &str, mut show: impl FnMut(&[u8])) -> Result<()> {
    each_message(brokers, topic, |message| {
        message.key().into_iter().chain(message.payload()).for_each(&mut show);
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        headers.filter_map(|header| header.value).for_each(&mut show);
        Ok(())
    })
}

fn each_message(brokers: &str, topic: &str, mut show: impl FnMut(&BorrowedMessage<'_>) -> Result<()>) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "chaos-reader")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), READ).with_context(|| format!("topic {topic}"))?;
    let partitions: Vec<i32> = metadata.topics().iter().flat_map(|t| t.partitions()).map(|p| p.id()).collect();
    ensure!(!partitions.is_empty(), "topic {topic} is not there");
    let (mut assigned, mut missing) = (TopicPartitionList::new(), 0);
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition, READ)?;
        missing += high - low;
        assigned.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assigned)?;
    let mut silent_since = Instant::now();
    while missing > 0 {
        ensure!(silent_since.elapsed() < READ, "{missing} records of topic {topic} did not come, and none for {READ:?}");
        let Some(message) = consumer.poll(Duration::from_millis(200)) else { continue };
        show(&message?).with_context(|| format!("topic {topic}"))?;
        silent_since = Instant::now();
        missing -= 1;
    }
    Ok(())
}

fn record(message: &BorrowedMessage<'_>) -> Result<Record> {
    let header = |name: &str| {
        let found = message.headers().and_then(|headers| headers.iter().find(|header| header.key == name)).and_then(|h| h.value);
        let text = found.and_then(|value| std::str::from_utf8(value).ok());
        text.map(str::to_owned).with_context(|| format!("record at {}/{} has no header {name}", message.partition(), message.offset()))
    };
    Ok(Record {
        at: (message.partition(), message.offset()),
        key: std::str::from_utf8(message.key().unwrap_or_default())?.parse().context("the key")?,
        event: header("ce_id")?.parse().context("ce_id")?,
        kind: header("ce_type")?,
        sequence: header("ce_sequence")?.parse().context("ce_sequence")?,
        payload: message.payload().unwrap_or_default().to_vec(),
    })
}

#[derive(serde::Deserialize)]
struct Page {
    entries: Vec<ProviderEntry>,
}

/// The provider's whole ledger.
///
/// # Errors
/// When the provider does not answer.
pub async fn provider(url: &str) -> Result<Vec<ProviderEntry>> {
    let client = reqwest::Client::new();
    let mut entries: Vec<ProviderEntry> = Vec::new();
    loop {
        let after = entries.last().map_or(0, |entry| entry.sequence);
        let answer = client.get(format!("{url}/v1/ledger?after={after}&limit={PAGE}")).send().await.context("the provider's ledger")?;
        let page: Page = answer.json().await.context("the provider's ledger")?;
        let full = page.entries.len() == PAGE;
        entries.extend(page.entries);
        if !full {
            return Ok(entries);
        }
    }
}
