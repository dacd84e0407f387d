//! Between the contract's messages and the domain.

use crate::{
    domain::{Command, Item, Reservation, Status},
    error::Error,
    store::stock::{Change, Level},
};
use chassis::error::Fault;
use mercato_chassis as chassis;
use mercato_contracts::mercato::inventory::v1 as proto;
use std::collections::BTreeSet;
use time::OffsetDateTime;
use uuid::Uuid;

/// An id that the contract's rules already let pass.
pub fn id(text: &str) -> Result<Uuid, Fault> {
    Uuid::parse_str(text).map_err(|error| Fault::Internal(format!("the contract let a malformed id pass: {error}")))
}

/// The command in a request to reserve; refuses a product named twice.
pub fn reserve(request: &proto::ReserveRequest) -> Result<Command, Error> {
    let mut seen = BTreeSet::new();
    let mut items = Vec::with_capacity(request.items.len());
    let mut violations = Vec::new();
    for (place, item) in request.items.iter().enumerate() {
        let product = id(&item.product_id)?;
        if !seen.insert(product) {
            violations.push((format!("items[{place}].productId"), "names a product twice".to_owned(), "DUPLICATE"));
        }
        items.push(Item { product, quantity: i64::from(item.quantity) });
    }
    if !violations.is_empty() {
        return Err(Error::Invalid(violations));
    }
    Ok(Command::Reserve { order: id(&request.order_id)?, items })
}

/// The message of a hold.
pub fn reservation(hold: &Reservation) -> proto::Reservation {
    let item = |item: Item| proto::ReservationItem {
        product_id: item.product.to_string(),
        // A product appears once with at most 9999 units, so this never saturates.
        quantity: i32::try_from(item.quantity).unwrap_or(i32::MAX),
    };
    proto::Reservation {
        order_id: hold.order.to_string(),
        items: hold.items().into_iter().map(item).collect(),
        status: status(hold.status).into(),
        expires_at: Some(timestamp(hold.expires_at)),
    }
}

/// The message of a product's stock.
pub fn product_stock(product: Uuid, levels: Vec<Level>) -> proto::ProductStock {
    let available = units(levels.iter().map(|level| level.available).sum());
    proto::ProductStock {
        product_id: product.to_string(),
        available,
        stock_level: units(levels.iter().map(|level| level.on_hand).sum()),
        in_stock: available > 0,
        warehouses: levels.into_iter().map(|level| stock(product, level)).collect(),
    }
}

/// A number of units as messages have it: JSON callers read a plain number. What no warehouse could hold reads as the largest one.
fn units(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(if count < 0 { i32::MIN } else { i32::MAX })
}

/// The message of a product's stock in one warehouse.
pub fn stock(product: Uuid, level: Level) -> proto::Stock {
    proto::Stock {
        product_id: product.to_string(),
        warehouse_id: level.warehouse,
        stock_level: units(level.on_hand),
        available: units(level.available),
        updated_at: Some(timestamp(level.updated_at)),
    }
}

/// The message of a ledger row.
pub fn change(change: Change) -> proto::StockChange {
    proto::StockChange {
        warehouse_id: change.warehouse,
        level_delta: units(change.level_delta),
        available_delta: units(change.available_delta),
        cause: change.cause,
        order_id: change.order.map(|order| order.to_string()).unwrap_or_default(),
        at: Some(timestamp(change.at)),
    }
}

/// A point in time.
pub fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).unwrap_or(0) }
}

/// How a hold stands, in the contract's words.
pub fn status(status: Status) -> proto::ReservationStatus {
    match status {
        Status::Active => proto::ReservationStatus::Active,
        Status::Committed => proto::ReservationStatus::Committed,
        Status::Released => proto::ReservationStatus::Released,
        Status::Expired => proto::ReservationStatus::Expired,
    }
}
