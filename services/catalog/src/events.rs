//! The catalog's events: topic `catalog`, key the product's id, sequence the product's version.

use crate::{convert, domain::product::Product};
use chassis::outbox::Event;
use mercato_chassis as chassis;
use mercato_contracts::mercato::catalog::v1 as proto;
use uuid::Uuid;

/// The topic.
pub const TOPIC: &str = "catalog";
/// A product exists.
pub const CREATED: &str = "catalog.product_created";
/// A product changed.
pub const UPDATED: &str = "catalog.product_updated";
/// A product is gone.
pub const DELETED: &str = "catalog.product_deleted";

/// The event of a new product. Stock is not in the catalog's events: inventory tells it.
pub fn created(product: &Product) -> Event {
    let payload = proto::ProductCreated { product: Some(convert::message(product, 0)) };
    Event::new(TOPIC, CREATED, product.id, product.version, &payload)
}

/// The event of a changed product.
pub fn updated(product: &Product) -> Event {
    let payload = proto::ProductUpdated { product: Some(convert::message(product, 0)) };
    Event::new(TOPIC, UPDATED, product.id, product.version, &payload)
}

/// The event of a product that is gone; `version` is the one its deletion gave it.
pub fn deleted(id: Uuid, version: i64) -> Event {
    Event::new(TOPIC, DELETED, id, version, &proto::ProductDeleted { product_id: id.to_string() })
}
