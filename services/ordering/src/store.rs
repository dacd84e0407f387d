//! All SQL of ordering. Reads of a customer's orders take the scope of the caller; writes run inside a unit of work.

use crate::convert::{order_from_proto, order_to_proto};
use crate::domain::Order;
use mercato_chassis::{call::Scope, error::Fault};
use mercato_contracts::mercato::ordering::v1 as proto;
use prost::Message;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

/// An event as it is stored.
pub struct StoredEvent {
    /// Its number.
    pub version: i64,
    /// Its dotted name.
    pub kind: String,
    /// The contract's message.
    pub payload: Vec<u8>,
    /// When it happened.
    pub at: OffsetDateTime,
}

/// Writes a new order with its first event. `orders_pkey` is violated when it exists.
pub async fn insert(tx: &mut PgConnection, order: &Order, event: &StoredEvent) -> Result<(), Fault> {
    let snapshot = order_to_proto(order).encode_to_vec();
    sqlx::query!(
        "with o as (
           insert into orders (id, customer_id, status, payment_status, open, stock_held, version, snapshot, created_at, updated_at)
           values ($1, $2, $3, $4, true, true, 1, $5, $6, $6))
         insert into order_event (order_id, version, kind, payload, at) values ($1, 1, $7, $8, $6)",
        order.placed.id,
        order.placed.customer_id,
        order.status as i16,
        order.payment_status as i16,
        snapshot,
        order.created_at,
        event.kind,
        event.payload,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The order, locked until the end of the transaction.
pub async fn load_for_update(tx: &mut PgConnection, id: Uuid, scope: Scope) -> Result<Option<Order>, Fault> {
    let row = sqlx::query!(
        "select snapshot, stock_held, payment_id from orders where id = $1 and ($2::uuid is null or customer_id = $2) for update",
        id,
        scope.owner(),
    )
    .fetch_optional(tx)
    .await?;
    row.map(|r| order_from_proto(&snapshot(&r.snapshot)?, r.stock_held, r.payment_id)).transpose()
}

/// Writes the order at its new version with the events that led there. The caller holds the row's lock.
pub async fn save(tx: &mut PgConnection, before: i64, order: &Order, events: &[StoredEvent]) -> Result<(), Fault> {
    let snapshot = order_to_proto(order).encode_to_vec();
    let versions: Vec<i64> = events.iter().map(|e| e.version).collect();
    let kinds: Vec<String> = events.iter().map(|e| e.kind.clone()).collect();
    let payloads: Vec<Vec<u8>> = events.iter().map(|e| e.payload.clone()).collect();
    let done = sqlx::query!(
        "with o as (
           update orders set status = $3, payment_status = $4, open = $5, stock_held = $6, payment_id = $7, version = $8, snapshot = $9,
             updated_at = $10, check_at = now() + interval '20 seconds', checks = 0, last_error = ''
           where id = $1 and version = $2 returning id)
         insert into order_event (order_id, version, kind, payload, at)
         select o.id, e.version, e.kind, e.payload, $10 from o, unnest($11::bigint[], $12::text[], $13::bytea[]) as e(version, kind, payload)",
        order.placed.id,
        before,
        order.status as i16,
        order.payment_status as i16,
        order.open(),
        order.stock_held,
        order.payment_id,
        order.version,
        snapshot,
        order.updated_at,
        &versions,
        &kinds,
        &payloads,
    )
    .execute(tx)
    .await?;
    if usize::try_from(done.rows_affected()).ok() == Some(events.len()) {
        return Ok(());
    }
    Err(Fault::Internal(format!("order `{}` changed under its own lock", order.placed.id)))
}

fn snapshot(bytes: &[u8]) -> Result<proto::Order, Fault> {
    proto::Order::decode(bytes).map_err(|e| Fault::Internal(format!("a stored order is damaged: {e}")))
}

/// One order as its owner sees it.
pub async fn read(pool: &PgPool, id: Uuid, scope: Scope) -> Result<Option<proto::Order>, Fault> {
    let row = sqlx::query!("select snapshot from orders where id = $1 and ($2::uuid is null or customer_id = $2)", id, scope.owner())
        .fetch_optional(pool)
        .await?;
    row.map(|r| snapshot(&r.snapshot)).transpose()
}

/// Many orders, whoever owns them, for watchers whose right was checked when they came.
pub async fn read_many(pool: &PgPool, ids: &[Uuid], newer_than: &[i64]) -> Result<Vec<proto::Order>, Fault> {
    let rows = sqlx::query!(
        "select o.snapshot from unnest($1::uuid[], $2::bigint[]) as w(id, version) join orders o on o.id = w.id and o.version > w.version",
        ids,
        newer_than,
    )
    .fetch_all(pool)
    .await?;
    rows.iter().map(|r| snapshot(&r.snapshot)).collect()
}

/// Where a page of a list begins: after the order made then with that id.
pub struct After {
    /// When the last order of the page before was made.
    pub created_at: OffsetDateTime,
    /// Its id.
    pub id: Uuid,
}

/// A page of orders, newest first.
pub async fn list(pool: &PgPool, scope: Scope, status: Option<i16>, after: Option<After>, limit: i64) -> Result<Vec<proto::Order>, Fault> {
    let (at, id) = after.map_or((None, None), |a| (Some(a.created_at), Some(a.id)));
    let rows = match scope.owner() {
        Some(owner) => {
            sqlx::query_scalar!(
                "select snapshot from orders where customer_id = $1 and ($2::smallint is null or status = $2)
                 and ($3::timestamptz is null or (created_at, id) < ($3, $4)) order by created_at desc, id desc limit $5",
                owner,
                status,
                at,
                id,
                limit
            )
            .fetch_all(pool)
            .await?
        }
        None => {
            sqlx::query_scalar!(
                "select snapshot from orders where ($1::smallint is null or status = $1)
                 and ($2::timestamptz is null or (created_at, id) < ($2, $3)) order by created_at desc, id desc limit $4",
                status,
                at,
                id,
                limit
            )
            .fetch_all(pool)
            .await?
        }
    };
    rows.iter().map(|bytes| snapshot(bytes)).collect()
}

/// All events of an order, oldest first; `None` when the caller has no such order.
pub async fn history(pool: &PgPool, id: Uuid, scope: Scope) -> Result<Option<Vec<StoredEvent>>, Fault> {
    let rows = sqlx::query_as!(
        StoredEvent,
        "select e.version, e.kind, e.payload, e.at from orders o join order_event e on e.order_id = o.id
         where o.id = $1 and ($2::uuid is null or o.customer_id = $2) order by e.version",
        id,
        scope.owner(),
    )
    .fetch_all(pool)
    .await?;
    Ok(if rows.is_empty() { None } else { Some(rows) })
}

/// Takes orders whose timer ran out and sets it anew, later each time, 5 min at most.
pub async fn take_due(tx: &mut PgConnection, limit: i64) -> Result<Vec<Uuid>, Fault> {
    let ids = sqlx::query_scalar!(
        "update orders set checks = checks + 1, check_at = now() + least(interval '5 minutes', interval '10 seconds' * power(2, least(checks, 5)))
         where id in (select id from orders where open and check_at <= now() order by check_at limit $1 for update skip locked)
         returning id",
        limit,
    )
    .fetch_all(tx)
    .await?;
    Ok(ids)
}

/// Notes what the last try of a step said, for whoever is on call.
pub async fn note_error(tx: &mut PgConnection, id: Uuid, error: &str) -> Result<(), Fault> {
    sqlx::query!("update orders set last_error = left($2, 500) where id = $1", id, error).execute(tx).await?;
    Ok(())
}

/// An order that waits longer than it should.
pub struct Stuck {
    /// The order.
    pub order: proto::Order,
    /// Whether inventory still holds stock for it.
    pub stock_held: bool,
    /// How often it was looked at.
    pub checks: i32,
    /// When it is looked at next.
    pub check_at: OffsetDateTime,
    /// What the last try said.
    pub last_error: String,
}

/// Orders looked at twice or more without getting on, and those that need a person; the oldest first.
pub async fn stuck(pool: &PgPool, limit: i64) -> Result<Vec<Stuck>, Fault> {
    let rows = sqlx::query!(
        "select snapshot, stock_held, checks, check_at, last_error from orders
         where (open and checks >= 2) or status = 6 order by created_at limit $1",
        limit,
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(Stuck {
                order: snapshot(&r.snapshot)?,
                stock_held: r.stock_held,
                checks: r.checks,
                check_at: r.check_at,
                last_error: r.last_error,
            })
        })
        .collect()
}
