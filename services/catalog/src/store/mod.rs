//! All SQL of the catalog. Products have no owner: who may change them is the contract's business.

/// A checked query for products with their stock: `products!("where ..." + "...", parameters ...)`.
macro_rules! products {
    ($first:tt $(+ $next:tt)*, $($parameter:expr),+ $(,)?) => {
        sqlx::query_as!(
            $crate::store::Row,
            r#"select id, name, sort_name as "sort_name!", description, price_minor, currency, category, tags,
                      attributes as "attributes: _", images, sellable,
                      product.version, created_at, updated_at, coalesce(available, 0) as "available!"
               from product left join product_stock on product_id = id "#
                + $first $(+ $next)*,
            $($parameter),+
        )
    };
}

pub mod list;
pub mod products;
pub mod seed;
pub mod stock;

use crate::domain::product::{Attribute, Details, Product};
use chassis::{error::Fault, money::Money};
use mercato_chassis as chassis;
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

/// A product and what inventory last said of it.
#[derive(Debug, Clone)]
pub struct Stocked {
    /// The product.
    pub product: Product,
    /// Units that can be ordered; 0 before the first word from inventory.
    pub stock: i64,
    /// The value that lists by name sort by.
    pub sort_name: String,
}

struct Row {
    id: Uuid,
    name: String,
    sort_name: String,
    description: String,
    price_minor: i64,
    currency: String,
    category: String,
    tags: Vec<String>,
    attributes: Json<Vec<Attribute>>,
    images: Vec<String>,
    sellable: bool,
    version: i64,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    available: i64,
}

impl TryFrom<Row> for Stocked {
    type Error = Fault;

    fn try_from(row: Row) -> Result<Stocked, Fault> {
        let price = Money::from_minor(&row.currency, row.price_minor)
            .map_err(|error| Fault::Internal(format!("product {} has no price: {error}", row.id)))?;
        let details = Details {
            name: row.name,
            description: row.description,
            price,
            category: row.category,
            tags: row.tags,
            attributes: row.attributes.0,
            images: row.images,
            sellable: row.sellable,
        };
        let product = Product { id: row.id, details, version: row.version, created_at: row.created_at, updated_at: row.updated_at };
        Ok(Stocked { product, stock: row.available, sort_name: row.sort_name })
    }
}
