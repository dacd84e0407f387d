//! One command to one order, inside the transaction of whoever brings it: consumer, worker or customer.

use crate::clock::now;
use crate::domain::{Command, Event, Order, Refused, decide};
use crate::events::{TOPIC, kind, payload};
use crate::store::{self, StoredEvent};
use mercato_chassis::{call::Scope, error::Fault, outbox, work};
use sqlx::PgConnection;
use std::time::Duration;
use uuid::Uuid;

/// What became of a command.
pub enum Advanced {
    /// The caller has no such order.
    Missing,
    /// The order stands where the command is not possible any more.
    Refused(Box<Order>),
    /// The order as it is now; unchanged when the command said nothing new.
    Now(Box<Order>),
}

/// Applies a command: loads and locks, decides, stores, publishes, and makes the next step due, all in `tx`.
pub async fn advance(tx: &mut PgConnection, id: Uuid, scope: Scope, command: Command) -> Result<Advanced, Fault> {
    let Some(mut order) = store::load_for_update(tx, id, scope).await? else { return Ok(Advanced::Missing) };
    let events = match decide(&order, command) {
        Ok(events) => events,
        Err(Refused) => return Ok(Advanced::Refused(Box::new(order))),
    };
    if events.is_empty() {
        return Ok(Advanced::Now(Box::new(order)));
    }
    let before = order.version;
    let at = now().max(order.updated_at);
    let mut stored = Vec::with_capacity(events.len());
    for event in &events {
        order.apply(event, at);
        stored.push(StoredEvent { version: order.version, kind: kind(event).to_owned(), payload: payload(event, &order), at });
    }
    store::save(tx, before, &order, &stored).await?;
    publish(tx, &order, &events, &stored).await?;
    next_steps(tx, &order, &events).await?;
    Ok(Advanced::Now(Box::new(order)))
}

/// Puts events into the outbox as they were stored.
pub async fn publish(tx: &mut PgConnection, order: &Order, events: &[Event], stored: &[StoredEvent]) -> Result<(), Fault> {
    let outgoing: Vec<outbox::Event> = events
        .iter()
        .zip(stored)
        .map(|(event, row)| outbox::Event::from_bytes(TOPIC, kind(event), order.placed.id, row.version, row.payload.clone()))
        .collect();
    outbox::append(tx, &outgoing).await
}

async fn next_steps(tx: &mut PgConnection, order: &Order, events: &[Event]) -> Result<(), Fault> {
    for event in events {
        let step = match event {
            Event::PaymentAuthorized { .. } => "commit",
            Event::Cancelled { .. } if order.stock_held => "release",
            _ => continue,
        };
        work::enqueue(tx, step, order.placed.id, Duration::ZERO).await?;
    }
    Ok(())
}
