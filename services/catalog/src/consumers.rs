//! What the catalog hears: inventory's stock for its rows, and on every instance the changes of products and stock for its cache.

use crate::{
    app::shelf::Shelf,
    convert, events,
    store::stock::{self, Level},
};
use async_trait::async_trait;
use chassis::{
    error::Fault,
    inbox::{Broadcast, Consumer, Handler, Received},
};
use mercato_chassis as chassis;
use mercato_contracts::mercato::inventory::v1 as inventory;
use sqlx::PgConnection;
use std::{collections::BTreeMap, sync::Arc};
use uuid::Uuid;

/// Inventory's topic.
const INVENTORY: &str = "inventory";
/// What can be reserved of a product changed.
const INVENTORY_UPDATED: &str = "inventory.updated";

/// Keeps what inventory says of each product. Only one instance hears each event.
pub fn stock_keeper(shelf: Arc<Shelf>) -> Consumer {
    Consumer { name: "catalog.inventory", topics: &[INVENTORY], handler: Arc::new(StockKeeper { shelf }) }
}

/// Keeps this instance's shelf fresh. Every instance hears every event from now on.
pub fn shelf_keeper(shelf: Arc<Shelf>) -> Broadcast {
    Broadcast { name: "catalog.shelf", topics: &[events::TOPIC, INVENTORY], on_event: Arc::new(move |event| refresh(&shelf, event)) }
}

struct StockKeeper {
    shelf: Arc<Shelf>,
}

#[async_trait]
impl Handler for StockKeeper {
    fn wants(&self, kind: &str) -> bool {
        kind == INVENTORY_UPDATED
    }

    /// A level carries its version, so neither repetition nor order matters; what happens to reservations does not concern us.
    fn alone(&self, _kind: &str) -> bool {
        true
    }

    async fn handle(&self, tx: &mut PgConnection, event: &Received) -> Result<(), Fault> {
        self.handle_all(tx, &[event]).await
    }

    async fn handle_all(&self, tx: &mut PgConnection, events: &[&Received]) -> Result<(), Fault> {
        let mut latest: BTreeMap<Uuid, Level> = BTreeMap::new();
        for event in events {
            let (product, level) = heard(event)?;
            let known = latest.entry(product).or_insert(level);
            if known.version < level.version {
                *known = level;
            }
        }
        stock::hear(tx, &latest.into_iter().collect::<Vec<_>>()).await
    }

    fn committed(&self, events: &[Received]) {
        for event in events {
            refresh(&self.shelf, event);
        }
    }
}

/// A shelf that misses an event it cannot read is late by its time to live; the stock keeper is who reports the event.
fn refresh(shelf: &Shelf, event: &Received) {
    match event.kind.as_str() {
        INVENTORY_UPDATED => {
            if let Ok((product, level)) = heard(event) {
                shelf.stocked(product, level);
            }
        }
        events::UPDATED => shelf.changed(event.aggregate, event.sequence),
        events::DELETED => shelf.gone(event.aggregate),
        _ => {}
    }
}

fn heard(event: &Received) -> Result<(Uuid, Level), Fault> {
    let update: inventory::InventoryUpdated = event.decode()?;
    Ok((convert::id(&update.product_id)?, Level { available: update.available, version: update.version }))
}
