//! Many products at once.

use crate::domain::product::Product;
use chassis::error::Fault;
use mercato_chassis as chassis;
use sqlx::{PgConnection, types::Json};
use std::collections::HashSet;
use uuid::Uuid;

/// Inserts those products that are missing, with their own version and times. The ids of those that were.
pub async fn insert(tx: &mut PgConnection, products: &[Product]) -> Result<HashSet<Uuid>, Fault> {
    let column = |of: fn(&Product) -> &String| -> Vec<String> { products.iter().map(of).cloned().collect() };
    let ids: Vec<Uuid> = products.iter().map(|product| product.id).collect();
    let prices: Vec<i64> = products.iter().map(|product| product.details.price.minor()).collect();
    let currencies: Vec<String> = products.iter().map(|product| product.details.price.currency().code().to_owned()).collect();
    let tags: Vec<Json<&[String]>> = products.iter().map(|product| Json(product.details.tags.as_slice())).collect();
    let images: Vec<Json<&[String]>> = products.iter().map(|product| Json(product.details.images.as_slice())).collect();
    let attributes: Vec<_> = products.iter().map(|product| Json(&product.details.attributes)).collect();
    let sellable: Vec<bool> = products.iter().map(|product| product.details.sellable).collect();
    let versions: Vec<i64> = products.iter().map(|product| product.version).collect();
    let created: Vec<_> = products.iter().map(|product| product.created_at).collect();
    let updated: Vec<_> = products.iter().map(|product| product.updated_at).collect();
    // Arrays of arrays do not come apart in `unnest`, so the lists travel as JSON.
    let inserted = sqlx::query_scalar!(
        "insert into product (id, name, description, price_minor, currency, category, tags, attributes, images, sellable, version,
                              created_at, updated_at)
         select id, name, description, price_minor, currency, category, array(select jsonb_array_elements_text(tags)), attributes,
                array(select jsonb_array_elements_text(images)), sellable, version, created_at, updated_at
         from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::jsonb[], $8::jsonb[], $9::jsonb[],
                     $10::bool[], $11::bigint[], $12::timestamptz[], $13::timestamptz[])
              as seed (id, name, description, price_minor, currency, category, tags, attributes, images, sellable, version, created_at,
                       updated_at)
         on conflict (id) do nothing
         returning id",
        &ids,
        &column(|product| &product.details.name),
        &column(|product| &product.details.description),
        &prices,
        &currencies,
        &column(|product| &product.details.category),
        &tags as _,
        &attributes as _,
        &images as _,
        &sellable,
        &versions,
        &created,
        &updated,
    )
    .fetch_all(tx)
    .await?;
    Ok(inserted.into_iter().collect())
}
