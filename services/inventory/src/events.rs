//! The events of topic `inventory`.

use crate::{
    convert,
    domain::{Reservation, Status},
};
use chassis::outbox::Event;
use mercato_chassis as chassis;
use mercato_contracts::mercato::inventory::v1 as proto;
use uuid::Uuid;

/// Where inventory tells what happened.
pub const TOPIC: &str = "inventory";

/// A hold took the state it is in; its version is the sequence.
pub fn hold(hold: &Reservation) -> Event {
    let reservation = Some(convert::reservation(hold));
    let (order, version) = (hold.order, hold.version);
    match hold.status {
        Status::Active => Event::new(TOPIC, "inventory.reserved", order, version, &proto::InventoryReserved { reservation }),
        Status::Committed => Event::new(TOPIC, "inventory.committed", order, version, &proto::InventoryCommitted { reservation }),
        Status::Released | Status::Expired => {
            Event::new(TOPIC, "inventory.released", order, version, &proto::InventoryReleased { reservation })
        }
    }
}

/// What can be reserved of a product became `available`; `version` is the sequence.
pub fn updated(product: Uuid, available: i64, version: i64) -> Event {
    let payload = proto::InventoryUpdated { product_id: product.to_string(), available, version };
    Event::new(TOPIC, "inventory.updated", product, version, &payload)
}
