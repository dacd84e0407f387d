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

/// Keeps words from inventory, at most one for a product, unless a newer one is known already. The products need not be known yet.
pub async fn hear(tx: &mut PgConnection, words: &[(Uuid, Level)]) -> Result<(), Fault> {
    let products: Vec<Uuid> = words.iter().map(|(product, _)| *product).collect();
    let available: Vec<i64> = words.iter().map(|(_, level)| level.available).collect();
    let versions: Vec<i64> = words.iter().map(|(_, level)| level.version).collect();
    sqlx::query!(
        "insert into product_stock as known (product_id, available, version)
         select w.product_id, w.available, w.version
         from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as w (product_id, available, version) order by w.product_id
         on conflict (product_id) do update set available = excluded.available, version = excluded.version
         where known.version < excluded.version",
        &products,
        &available,
        &versions,
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
