//! Rows of `reservation` and `reservation_line`.

use crate::domain::{Line, Reservation, Status};
use chassis::error::Fault;
use mercato_chassis as chassis;
use sqlx::{PgConnection, PgPool};
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// Locks and reads the holds of these orders, given in ascending order; orders without one are left out.
pub async fn lock(tx: &mut PgConnection, orders: &[Uuid]) -> Result<Vec<Reservation>, Fault> {
    let rows = sqlx::query!(
        "SELECT order_id, status, version, expires_at FROM reservation WHERE order_id = ANY($1) ORDER BY order_id FOR UPDATE",
        orders
    )
    .fetch_all(&mut *tx)
    .await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<Uuid> = rows.iter().map(|row| row.order_id).collect();
    let mut lines = lines(tx, &found).await?;
    rows.into_iter()
        .map(|row| {
            Ok(Reservation {
                order: row.order_id,
                status: status(&row.status)?,
                lines: lines.remove(&row.order_id).unwrap_or_default(),
                expires_at: row.expires_at,
                version: row.version,
            })
        })
        .collect()
}

async fn lines(tx: &mut PgConnection, orders: &[Uuid]) -> Result<HashMap<Uuid, Vec<Line>>, Fault> {
    let rows = sqlx::query!(
        "SELECT order_id, product_id, warehouse_id, quantity FROM reservation_line
         WHERE order_id = ANY($1) ORDER BY order_id, product_id, warehouse_id",
        orders
    )
    .fetch_all(tx)
    .await?;
    let mut lines: HashMap<Uuid, Vec<Line>> = HashMap::new();
    for row in rows {
        let line = Line { product: row.product_id, warehouse: row.warehouse_id.into(), quantity: row.quantity };
        lines.entry(row.order_id).or_default().push(line);
    }
    Ok(lines)
}

/// Reads the hold of an order, with its lines as of the same moment.
pub async fn get(pool: &PgPool, order: Uuid) -> Result<Option<Reservation>, Fault> {
    let rows = sqlx::query!(
        r#"SELECT r.status, r.version, r.expires_at,
                  l.product_id AS "product_id?", l.warehouse_id AS "warehouse_id?", l.quantity AS "quantity?"
           FROM reservation AS r LEFT JOIN reservation_line AS l USING (order_id)
           WHERE r.order_id = $1 ORDER BY l.product_id, l.warehouse_id"#,
        order
    )
    .fetch_all(pool)
    .await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let mut hold =
        Reservation { order, status: status(&first.status)?, lines: Vec::new(), expires_at: first.expires_at, version: first.version };
    for row in rows {
        if let (Some(product), Some(warehouse), Some(quantity)) = (row.product_id, row.warehouse_id, row.quantity) {
            hold.lines.push(Line { product, warehouse: warehouse.into(), quantity });
        }
    }
    Ok(Some(hold))
}

/// How many holds are active, and by how many seconds the oldest is overdue.
pub async fn open(pool: &PgPool) -> Result<(i64, f64), Fault> {
    let select =
        "SELECT count(*), coalesce(extract(epoch FROM now() - min(expires_at)), 0)::float8 FROM reservation WHERE status = 'ACTIVE'";
    Ok(sqlx::query_as(select).fetch_one(pool).await?)
}

/// Orders whose hold is active and overdue, the oldest first, at most `limit`.
pub async fn overdue(pool: &PgPool, limit: i64) -> Result<Vec<Uuid>, Fault> {
    let orders = sqlx::query_scalar!(
        "SELECT order_id FROM reservation WHERE status = 'ACTIVE' AND expires_at <= now() ORDER BY expires_at LIMIT $1",
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(orders)
}

/// Writes holds that are new, given by ascending order id. A conflict when another process created one of them meanwhile: the batch must
/// be decided anew.
pub async fn insert(tx: &mut PgConnection, holds: &[&Reservation], now: OffsetDateTime) -> Result<(), Fault> {
    if holds.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(holds);
    let expiries: Vec<OffsetDateTime> = holds.iter().map(|hold| hold.expires_at).collect();
    let inserted = sqlx::query!(
        "INSERT INTO reservation (order_id, status, version, expires_at, created_at, updated_at)
         SELECT h.order_id, h.status, h.version, h.expires_at, $5, $5
         FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[]) AS h(order_id, status, version, expires_at)
         ON CONFLICT (order_id) DO NOTHING",
        &columns.orders,
        &columns.statuses,
        &columns.versions,
        &expiries,
        now,
    )
    .execute(&mut *tx)
    .await?;
    if inserted.rows_affected() != holds.len() as u64 {
        return Err(Fault::Conflict(sqlx::Error::Protocol("another process created the same reservation".to_owned())));
    }
    insert_lines(tx, holds).await
}

async fn insert_lines(tx: &mut PgConnection, holds: &[&Reservation]) -> Result<(), Fault> {
    let lines: Vec<(Uuid, &Line)> = holds.iter().flat_map(|hold| hold.lines.iter().map(|line| (hold.order, line))).collect();
    if lines.is_empty() {
        return Ok(());
    }
    let orders: Vec<Uuid> = lines.iter().map(|(order, _)| *order).collect();
    let products: Vec<Uuid> = lines.iter().map(|(_, line)| line.product).collect();
    let warehouses: Vec<String> = lines.iter().map(|(_, line)| line.warehouse.to_string()).collect();
    let quantities: Vec<i64> = lines.iter().map(|(_, line)| line.quantity).collect();
    sqlx::query!(
        "INSERT INTO reservation_line (order_id, product_id, warehouse_id, quantity)
         SELECT l.order_id, l.product_id, l.warehouse_id, l.quantity
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[]) AS l(order_id, product_id, warehouse_id, quantity)",
        &orders,
        &products,
        &warehouses,
        &quantities,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes the new state of holds that existed and are locked.
pub async fn update(tx: &mut PgConnection, holds: &[&Reservation], now: OffsetDateTime) -> Result<(), Fault> {
    if holds.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(holds);
    sqlx::query!(
        "UPDATE reservation AS r SET status = h.status, version = h.version, updated_at = $4
         FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS h(order_id, status, version)
         WHERE r.order_id = h.order_id",
        &columns.orders,
        &columns.statuses,
        &columns.versions,
        now,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Holds as columns for `unnest`.
struct Columns {
    orders: Vec<Uuid>,
    statuses: Vec<String>,
    versions: Vec<i64>,
}

impl Columns {
    fn of(holds: &[&Reservation]) -> Self {
        Self {
            orders: holds.iter().map(|hold| hold.order).collect(),
            statuses: holds.iter().map(|hold| hold.status.name().to_owned()).collect(),
            versions: holds.iter().map(|hold| hold.version).collect(),
        }
    }
}

fn status(name: &str) -> Result<Status, Fault> {
    Status::parse(name).ok_or_else(|| Fault::Internal(format!("a reservation has the unknown status `{name}`")))
}
