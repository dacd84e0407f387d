//! Pages of products. One statement for each order and kind of filter, so that each runs down an index of its own and, unless it filters
//! by price as well, reads no more rows than it shows.

use super::Stocked;
use crate::domain::listing::{Cursor, Filter};
use chassis::error::Fault;
use mercato_chassis as chassis;
use sqlx::PgPool;

/// A page in one order: `$after` compares with the cursor's value and id, $1 and $2. What is not filtered by is not in the statement,
/// since a plan made for any filter serves none of them well.
macro_rules! page {
    ($pool:expr, $filter:expr, $limit:expr, $value:expr, $id:expr, $after:tt, $order:tt) => {
        match $filter {
            Filter { category: None, price: None } => {
                products!("where deleted_at is null and " + $after + " order by " + $order + " limit $3", $value, $id, $limit)
                    .fetch_all($pool)
                    .await?
            }
            Filter { category: Some(category), price: None } => {
                products!(
                    "where deleted_at is null and category = $4 and " + $after + " order by " + $order + " limit $3",
                    $value,
                    $id,
                    $limit,
                    category
                )
                .fetch_all($pool)
                .await?
            }
            Filter { category: None, price: Some((min, max)) } => {
                products!(
                    "where deleted_at is null and price_minor between $4 and $5 and " + $after + " order by " + $order + " limit $3",
                    $value,
                    $id,
                    $limit,
                    min,
                    max
                )
                .fetch_all($pool)
                .await?
            }
            Filter { category: Some(category), price: Some((min, max)) } => {
                products!(
                    "where deleted_at is null and category = $6 and price_minor between $4 and $5 and "
                        + $after
                        + " order by "
                        + $order
                        + " limit $3",
                    $value,
                    $id,
                    $limit,
                    min,
                    max,
                    category
                )
                .fetch_all($pool)
                .await?
            }
        }
    };
}

/// At most `limit` products after the cursor. The cursor's kind says which order; `down` says whether prices fall.
pub async fn page(pool: &PgPool, filter: &Filter, after: &Cursor, down: bool, limit: i64) -> Result<Vec<Stocked>, Fault> {
    let rows = match after {
        Cursor::Newest(at, id) => {
            page!(pool, filter, limit, at, id, "(created_at, id) < ($1, $2)", "created_at desc, id desc")
        }
        Cursor::Price(minor, id) if down => {
            page!(pool, filter, limit, minor, id, "(price_minor, id) < ($1, $2)", "price_minor desc, id desc")
        }
        Cursor::Price(minor, id) => {
            page!(pool, filter, limit, minor, id, "(price_minor, id) > ($1, $2)", "price_minor, id")
        }
        Cursor::Name(name, id) => {
            page!(pool, filter, limit, name, id, "(sort_name, id) > ($1, $2)", "sort_name, id")
        }
    };
    rows.into_iter().map(Stocked::try_from).collect()
}

/// Each category that has products, by id, with their number.
pub async fn categories(pool: &PgPool) -> Result<Vec<(String, i64)>, Fault> {
    let rows = sqlx::query!(
        r#"select category, count(*) as "products!" from product where deleted_at is null group by category order by category"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.category, row.products)).collect())
}
