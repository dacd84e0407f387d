//! Rows of `stock`, `stock_ledger` and `product_version` outside of batches.

use chassis::error::Fault;
use mercato_chassis as chassis;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

/// The stock of a product in one warehouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// The warehouse.
    pub warehouse: String,
    /// Units there, reserved ones included.
    pub on_hand: i64,
    /// Units there that can still be reserved.
    pub available: i64,
    /// When it last changed, on the database's clock.
    pub updated_at: OffsetDateTime,
}

/// A row of the ledger.
#[derive(Debug, Clone)]
pub struct Change {
    /// Rises with time within a product.
    pub id: i64,
    /// The warehouse.
    pub warehouse: String,
    /// Change of the counted level.
    pub level_delta: i64,
    /// Change of what can be reserved.
    pub available_delta: i64,
    /// Why: set, reserve, release, expire or ship.
    pub cause: String,
    /// The order behind it, if any.
    pub order: Option<Uuid>,
    /// When, on the database's clock.
    pub at: OffsetDateTime,
}

/// The stock of a product in every warehouse, by name of the warehouse.
pub async fn levels(pool: &PgPool, product: Uuid) -> Result<Vec<Level>, Fault> {
    let levels = sqlx::query_as!(
        Level,
        "SELECT warehouse_id AS warehouse, on_hand, available, updated_at FROM stock WHERE product_id = $1 ORDER BY warehouse_id",
        product
    )
    .fetch_all(pool)
    .await?;
    Ok(levels)
}

/// Ledger rows of a product below the row `before`, newest first, at most `limit`.
pub async fn changes(pool: &PgPool, product: Uuid, before: i64, limit: i64) -> Result<Vec<Change>, Fault> {
    let changes = sqlx::query_as!(
        Change,
        r#"SELECT id, warehouse_id AS warehouse, level_delta, available_delta, cause, order_id AS "order", at
           FROM stock_ledger WHERE product_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3"#,
        product,
        before,
        limit
    )
    .fetch_all(pool)
    .await?;
    Ok(changes)
}

/// Locks a product, which comes into being when first named, and numbers the change to come.
pub async fn lock_product(tx: &mut PgConnection, product: Uuid) -> Result<i64, Fault> {
    let version = sqlx::query_scalar!(
        "INSERT INTO product_version (product_id, version) VALUES ($1, 1)
         ON CONFLICT (product_id) DO UPDATE SET version = product_version.version + 1 RETURNING version",
        product
    )
    .fetch_one(tx)
    .await?;
    Ok(version)
}

/// Locks the stock of a locked product in a warehouse and reads (on_hand, available); zeros where there never was any.
pub async fn lock_level(tx: &mut PgConnection, product: Uuid, warehouse: &str) -> Result<(i64, i64), Fault> {
    let row =
        sqlx::query!("SELECT on_hand, available FROM stock WHERE product_id = $1 AND warehouse_id = $2 FOR UPDATE", product, warehouse)
            .fetch_optional(tx)
            .await?;
    Ok(row.map_or((0, 0), |row| (row.on_hand, row.available)))
}

/// Sets a locked level, of which `reserved` units are promised, with the ledger row that says by how much it changed.
pub async fn set_level(
    tx: &mut PgConnection,
    product: Uuid,
    warehouse: &str,
    level: i64,
    reserved: i64,
    delta: i64,
) -> Result<Level, Fault> {
    let set = sqlx::query_as!(
        Level,
        "INSERT INTO stock (product_id, warehouse_id, on_hand, available, updated_at) VALUES ($1, $2, $3, $4, clock_timestamp())
         ON CONFLICT (product_id, warehouse_id) DO UPDATE
         SET on_hand = excluded.on_hand, available = excluded.available, updated_at = excluded.updated_at
         RETURNING warehouse_id AS warehouse, on_hand, available, updated_at",
        product,
        warehouse,
        level,
        level - reserved
    )
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query!(
        "INSERT INTO stock_ledger (product_id, warehouse_id, level_delta, available_delta, cause, order_id, at)
         VALUES ($1, $2, $3, $3, 'set', NULL, $4)",
        product,
        warehouse,
        delta,
        set.updated_at
    )
    .execute(tx)
    .await?;
    Ok(set)
}

/// Units of a locked product that can be reserved, over all warehouses.
pub async fn available(tx: &mut PgConnection, product: Uuid) -> Result<i64, Fault> {
    let available =
        sqlx::query_scalar!(r#"SELECT coalesce(sum(available), 0)::bigint AS "available!" FROM stock WHERE product_id = $1"#, product)
            .fetch_one(tx)
            .await?;
    Ok(available)
}

/// Gives a first level to those products that never had stock, in one warehouse, with ledger rows; returns which they were.
pub async fn seed(tx: &mut PgConnection, products: &[Uuid], levels: &[i64], warehouse: &str) -> Result<Vec<(Uuid, i64)>, Fault> {
    let rows = sqlx::query!(
        r#"WITH wanted AS (
               SELECT product_id, level FROM unnest($1::uuid[], $2::bigint[]) AS w(product_id, level)
           ), new AS (
               INSERT INTO product_version (product_id, version) SELECT product_id, 1 FROM wanted ORDER BY product_id
               ON CONFLICT (product_id) DO NOTHING RETURNING product_id
           ), put AS (
               INSERT INTO stock (product_id, warehouse_id, on_hand, available, updated_at)
               SELECT product_id, $3, level, level, now() FROM new JOIN wanted USING (product_id)
           ), told AS (
               INSERT INTO stock_ledger (product_id, warehouse_id, level_delta, available_delta, cause, order_id, at)
               SELECT product_id, $3, level, level, 'set', NULL, now() FROM new JOIN wanted USING (product_id)
           )
           SELECT product_id AS "product_id!", level AS "level!" FROM new JOIN wanted USING (product_id)"#,
        products,
        levels,
        warehouse
    )
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.product_id, row.level)).collect())
}
