//! What inventory last said of each product.

use chassis::error::Fault;
use mercato_chassis as chassis;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// Units that can be ordered, and inventory's version of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Units that can be ordered now.
    pub available: i64,
    /// Rises with every change; 0 before the first word from inventory.
    pub version: i64,
}

/// Keeps a word from inventory unless a newer one is known already. The product need not be known yet.
pub async fn hear(tx: &mut PgConnection, product: Uuid, level: Level) -> Result<(), Fault> {
    sqlx::query!(
        "insert into product_stock as known (product_id, available, version) values ($1, $2, $3)
         on conflict (product_id) do update set available = excluded.available, version = excluded.version
         where known.version < excluded.version",
        product,
        level.available,
        level.version,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The levels of these products; a product that inventory never spoke of is absent.
pub async fn levels(pool: &PgPool, products: &[Uuid]) -> Result<Vec<(Uuid, Level)>, Fault> {
    let rows = sqlx::query!("select product_id, available, version from product_stock where product_id = any($1)", products)
        .fetch_all(pool)
        .await?;
    Ok(rows.into_iter().map(|row| (row.product_id, Level { available: row.available, version: row.version })).collect())
}
