//! Loads what a batch of commands concerns, and writes what it made of it; a handful of statements whatever the batch's size.

use super::holds;
use crate::{
    domain::{Book, Command, Shelf},
    events,
};
use chassis::{error::Fault, outbox};
use mercato_chassis as chassis;
use sqlx::PgConnection;
use std::collections::{BTreeSet, HashMap};
use time::Duration;
use uuid::Uuid;

/// Locks the holds and the stock the commands concern and reads them.
pub async fn load(tx: &mut PgConnection, commands: &[Command], ttl: Duration) -> Result<Book, Fault> {
    let orders: BTreeSet<Uuid> = commands.iter().map(Command::order).collect();
    let orders: Vec<Uuid> = orders.into_iter().collect();
    let holds = holds::lock(tx, &orders).await?;
    let mut products: BTreeSet<Uuid> = holds.iter().flat_map(|hold| &hold.lines).map(|line| line.product).collect();
    for command in commands {
        if let Command::Reserve { items, .. } = command {
            products.extend(items.iter().map(|item| item.product));
        }
    }
    let products: Vec<Uuid> = products.into_iter().collect();
    let shelves = if products.is_empty() { HashMap::new() } else { lock_shelves(tx, &products).await? };
    // Read last: waiting for a lock must not make the clock go wrong.
    let now = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(tx).await?;
    Ok(Book::new(now, ttl, shelves, holds))
}

async fn lock_shelves(tx: &mut PgConnection, products: &[Uuid]) -> Result<HashMap<Uuid, Vec<Shelf>>, Fault> {
    sqlx::query!("SELECT product_id FROM product_version WHERE product_id = ANY($1) ORDER BY product_id FOR UPDATE", products)
        .fetch_all(&mut *tx)
        .await?;
    // A statement of its own: it must see the warehouses that came into being while the one above waited.
    let rows = sqlx::query!(
        "SELECT product_id, warehouse_id, available FROM stock WHERE product_id = ANY($1) ORDER BY product_id, warehouse_id FOR UPDATE",
        products
    )
    .fetch_all(tx)
    .await?;
    let mut shelves: HashMap<Uuid, Vec<Shelf>> = HashMap::new();
    for row in rows {
        shelves.entry(row.product_id).or_default().push(Shelf { warehouse: row.warehouse_id.into(), available: row.available });
    }
    Ok(shelves)
}

/// Writes the changes of a decided batch: stock, holds, lines, ledger and events.
pub async fn save(tx: &mut PgConnection, book: &Book) -> Result<(), Fault> {
    if book.steps().is_empty() {
        return Ok(());
    }
    let (new, existing) = book.changed();
    holds::insert(tx, &new, book.now()).await?;
    holds::update(tx, &existing, book.now()).await?;
    let mut messages: Vec<outbox::Event> = book.steps().iter().map(events::hold).collect();
    if !book.entries().is_empty() {
        append_ledger(tx, book).await?;
        move_stock(tx, book).await?;
        for (product, version) in bump(tx, book).await? {
            messages.push(events::updated(product, book.available(product), version));
        }
    }
    outbox::append(tx, &messages).await
}

async fn append_ledger(tx: &mut PgConnection, book: &Book) -> Result<(), Fault> {
    let entries = book.entries();
    let orders: Vec<Uuid> = entries.iter().map(|entry| entry.order).collect();
    let products: Vec<Uuid> = entries.iter().map(|entry| entry.product).collect();
    let warehouses: Vec<String> = entries.iter().map(|entry| entry.warehouse.to_string()).collect();
    let deltas: Vec<i64> = entries.iter().map(|entry| entry.available_delta).collect();
    let causes: Vec<String> = entries.iter().map(|entry| entry.cause.to_owned()).collect();
    sqlx::query!(
        "INSERT INTO stock_ledger (product_id, warehouse_id, level_delta, available_delta, cause, order_id, at)
         SELECT e.product_id, e.warehouse_id, 0, e.available_delta, e.cause, e.order_id, $6
         FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::uuid[])
              AS e(product_id, warehouse_id, available_delta, cause, order_id)",
        &products,
        &warehouses,
        &deltas,
        &causes,
        &orders,
        book.now(),
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn move_stock(tx: &mut PgConnection, book: &Book) -> Result<(), Fault> {
    let deltas = book.shelf_deltas();
    if deltas.is_empty() {
        return Ok(());
    }
    let products: Vec<Uuid> = deltas.keys().map(|(product, _)| *product).collect();
    let warehouses: Vec<String> = deltas.keys().map(|(_, warehouse)| warehouse.to_string()).collect();
    let units: Vec<i64> = deltas.values().copied().collect();
    #[cfg(feature = "plants")]
    if chassis::plant::bug("bug-09") {
        return move_unchecked(tx, &products, &warehouses, &units).await;
    }
    let moved = sqlx::query!(
        "UPDATE stock AS s SET available = s.available + d.units, updated_at = $4
         FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS d(product_id, warehouse_id, units)
         WHERE s.product_id = d.product_id AND s.warehouse_id = d.warehouse_id",
        &products,
        &warehouses,
        &units,
        book.now(),
    )
    .execute(tx)
    .await?;
    if moved.rows_affected() != deltas.len() as u64 {
        return Err(Fault::Internal(format!(
            "a hold names a shelf that is not there: {} of {} found",
            moved.rows_affected(),
            deltas.len()
        )));
    }
    Ok(())
}

/// The planted mistake of a shelf that is emptied further than it was filled, in a table without a rule against it.
#[cfg(feature = "plants")]
async fn move_unchecked(tx: &mut PgConnection, products: &[Uuid], warehouses: &[String], units: &[i64]) -> Result<(), Fault> {
    sqlx::query(
        "UPDATE stock AS s SET available = greatest(0, s.available + d.units)
         FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS d(product_id, warehouse_id, units)
         WHERE s.product_id = d.product_id AND s.warehouse_id = d.warehouse_id",
    )
    .bind(products)
    .bind(warehouses)
    .bind(units)
    .execute(tx)
    .await?;
    Ok(())
}

/// Numbers the change of every product whose stock came out different.
async fn bump(tx: &mut PgConnection, book: &Book) -> Result<Vec<(Uuid, i64)>, Fault> {
    let mut net: HashMap<Uuid, i64> = HashMap::new();
    for ((product, _), delta) in book.shelf_deltas() {
        *net.entry(product).or_default() += delta;
    }
    let products: Vec<Uuid> = net.into_iter().filter(|(_, delta)| *delta != 0).map(|(product, _)| product).collect();
    if products.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        "UPDATE product_version SET version = version + 1 WHERE product_id = ANY($1) RETURNING product_id, version",
        &products
    )
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.product_id, row.version)).collect())
}
