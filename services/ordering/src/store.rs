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

/// Writes new orders, each with its first event. `orders_pkey` is violated when one exists.
pub async fn insert_all(tx: &mut PgConnection, new: &[(&Order, &StoredEvent)]) -> Result<(), Fault> {
    let each = |f: fn(&Order) -> Uuid| new.iter().map(|(o, _)| f(o)).collect::<Vec<_>>();
    let snapshots: Vec<Vec<u8>> = new.iter().map(|(o, _)| order_to_proto(o).encode_to_vec()).collect();
    let at: Vec<OffsetDateTime> = new.iter().map(|(o, _)| o.created_at).collect();
    let kinds: Vec<String> = new.iter().map(|(_, e)| e.kind.clone()).collect();
    let payloads: Vec<Vec<u8>> = new.iter().map(|(_, e)| e.payload.clone()).collect();
    sqlx::query!(
        "with n as (
           select * from unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::timestamptz[], $5::text[], $6::bytea[])
             as n (id, customer_id, snapshot, at, kind, payload)),
         o as (
           insert into orders (id, customer_id, status, payment_status, open, stock_held, version, snapshot, created_at, updated_at)
           select id, customer_id, 1, 1, true, true, 1, snapshot, at, at from n)
         insert into order_event (order_id, version, kind, payload, at) select id, 1, kind, payload, at from n",
        &each(|o| o.placed.id),
        &each(|o| o.placed.customer_id),
        &snapshots,
        &at,
        &kinds,
        &payloads,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The order, locked until the end of the transaction.
pub async fn load_for_update(tx: &mut PgConnection, id: Uuid, scope: Scope) -> Result<Option<Order>, Fault> {
    let mut found = load_all_for_update(tx, &[id]).await?;
    Ok(found.pop().filter(|order| scope.owner().is_none_or(|owner| owner == order.placed.customer_id)))
}

/// Orders, whoever owns them, locked until the end of the transaction; in the order of their ids, so that two transactions cannot wait for
/// each other in a circle.
pub async fn load_all_for_update(tx: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Order>, Fault> {
    let rows = sqlx::query!("select snapshot, stock_held, payment_id from orders where id = any($1) order by id for update", ids)
        .fetch_all(tx)
        .await?;
    rows.into_iter().map(|r| order_from_proto(&snapshot(&r.snapshot)?, r.stock_held, r.payment_id)).collect()
}

/// An order that changed: its version before, the order as it is now, and the events that led there.
pub struct Changed {
    /// The version the change was decided on.
    pub before: i64,
    /// The order as it is now.
    pub order: Order,
    /// What happened.
    pub events: Vec<StoredEvent>,
}

/// Writes orders at their new versions with the events that led there. The caller holds the rows' locks. An order on its way touches no
/// indexed column, so that PostgreSQL can keep the new version on the same page; the timer moves only once it has rung.
pub async fn save_all(tx: &mut PgConnection, changed: &[&Changed]) -> Result<(), Fault> {
    let orders = || changed.iter().map(|c| &c.order);
    let snapshots: Vec<Vec<u8>> = orders().map(|o| order_to_proto(o).encode_to_vec()).collect();
    let events = || changed.iter().flat_map(|c| c.events.iter().map(move |e| (c.order.placed.id, e)));
    let written = sqlx::query!(
        "with c as (
           select * from unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::smallint[], $5::boolean[], $6::boolean[], $7::text[], $8::bigint[],
                                $9::bytea[], $10::timestamptz[])
             as c (id, before, status, payment_status, open, stock_held, payment_id, version, snapshot, updated_at)),
         o as (
           update orders set status = c.status, payment_status = c.payment_status, open = c.open, stock_held = c.stock_held,
             payment_id = c.payment_id, version = c.version, snapshot = c.snapshot, updated_at = c.updated_at,
             check_at = case when orders.checks > 0 then now() + interval '20 seconds' else orders.check_at end, checks = 0, last_error = ''
           from c where orders.id = c.id and orders.version = c.before returning orders.id)
         insert into order_event (order_id, version, kind, payload, at)
         select o.id, e.version, e.kind, e.payload, e.at
         from unnest($11::uuid[], $12::bigint[], $13::text[], $14::bytea[], $15::timestamptz[]) as e (order_id, version, kind, payload, at)
         join o on o.id = e.order_id",
        &orders().map(|o| o.placed.id).collect::<Vec<_>>(),
        &changed.iter().map(|c| c.before).collect::<Vec<_>>(),
        &orders().map(|o| o.status as i16).collect::<Vec<_>>(),
        &orders().map(|o| o.payment_status as i16).collect::<Vec<_>>(),
        &orders().map(Order::open).collect::<Vec<_>>(),
        &orders().map(|o| o.stock_held).collect::<Vec<_>>(),
        &orders().map(|o| o.payment_id.clone()).collect::<Vec<_>>(),
        &orders().map(|o| o.version).collect::<Vec<_>>(),
        &snapshots,
        &orders().map(|o| o.updated_at).collect::<Vec<_>>(),
        &events().map(|(id, _)| id).collect::<Vec<_>>(),
        &events().map(|(_, e)| e.version).collect::<Vec<_>>(),
        &events().map(|(_, e)| e.kind.clone()).collect::<Vec<_>>(),
        &events().map(|(_, e)| e.payload.clone()).collect::<Vec<_>>(),
        &events().map(|(_, e)| e.at).collect::<Vec<_>>(),
    )
    .execute(tx)
    .await?;
    if usize::try_from(written.rows_affected()).ok() == Some(events().count()) {
        return Ok(());
    }
    Err(Fault::Internal("an order changed under its own lock".to_owned()))
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

/// Orders with something left to do: status, status of the payment, how many, and for how many seconds the one that has stood the longest
/// has not got on. Reads the index of open orders alone.
pub async fn open_orders(pool: &PgPool) -> Result<Vec<(i16, i16, i64, f64)>, Fault> {
    let select = "select status, payment_status, count(*), extract(epoch from now() - min(updated_at))::float8 from orders where open
                  group by status, payment_status";
    Ok(sqlx::query_as(select).fetch_all(pool).await?)
}
