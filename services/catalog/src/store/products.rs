//! Single products: read, locked, written.

use super::Stocked;
use crate::domain::product::{Details, Product};
use chassis::error::Fault;
use mercato_chassis as chassis;
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;

/// These products as far as they are in the shop, in no order.
pub async fn find(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Stocked>, Fault> {
    let rows = products!("where id = any($1) and deleted_at is null", ids).fetch_all(pool).await?;
    rows.into_iter().map(Stocked::try_from).collect()
}

/// The product, held against other writers until the transaction ends; nothing when it is not in the shop.
pub async fn lock(tx: &mut PgConnection, id: Uuid) -> Result<Option<Stocked>, Fault> {
    let row = products!("where id = $1 and deleted_at is null for update of product", id).fetch_optional(tx).await?;
    row.map(Stocked::try_from).transpose()
}

/// Puts a product into the shop, at version 1.
pub async fn insert(tx: &mut PgConnection, id: Uuid, details: &Details) -> Result<Product, Fault> {
    let currency = details.price.currency();
    let row = sqlx::query!(
        "insert into product (id, name, description, price_minor, currency, category, tags, attributes, images, sellable, version,
                              created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1, now(), now())
         returning created_at, updated_at",
        id,
        details.name,
        details.description,
        details.price.minor(),
        currency.code(),
        details.category,
        &details.tags,
        Json(&details.attributes) as _,
        &details.images,
        details.sellable,
    )
    .fetch_one(tx)
    .await?;
    Ok(Product { id, details: details.clone(), version: 1, created_at: row.created_at, updated_at: row.updated_at })
}

/// Writes new details over a locked product; its version rises by one.
pub async fn update(tx: &mut PgConnection, locked: &Product, details: Details) -> Result<Product, Fault> {
    let currency = details.price.currency();
    let row = sqlx::query!(
        "update product
         set name = $2, description = $3, price_minor = $4, currency = $5, category = $6, tags = $7, attributes = $8, images = $9,
             sellable = $10, version = version + 1, updated_at = greatest(now(), updated_at)
         where id = $1
         returning version, updated_at",
        locked.id,
        details.name,
        details.description,
        details.price.minor(),
        currency.code(),
        details.category,
        &details.tags,
        Json(&details.attributes) as _,
        &details.images,
        details.sellable,
    )
    .fetch_one(tx)
    .await?;
    Ok(Product { id: locked.id, details, version: row.version, created_at: locked.created_at, updated_at: row.updated_at })
}

/// Takes a locked product out of the shop. The version it has from now on.
pub async fn delete(tx: &mut PgConnection, locked: &Product) -> Result<i64, Fault> {
    let version = sqlx::query_scalar!(
        "update product set deleted_at = now(), updated_at = greatest(now(), updated_at), version = version + 1
         where id = $1 returning version",
        locked.id
    )
    .fetch_one(tx)
    .await?;
    Ok(version)
}
