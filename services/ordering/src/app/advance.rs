//! Commands to orders, inside the transaction of whoever brings them: consumer, worker or customer. Many at once cost as many statements
//! as one.

use crate::clock::now;
use crate::domain::{Command, Event, Order, Refused, decide};
use crate::events::{TOPIC, kind, payload};
use crate::metrics;
use crate::store::{self, Changed, StoredEvent};
use mercato_chassis::pg::count_on_commit;
use mercato_chassis::{
    call::Scope,
    error::Fault,
    outbox, plant,
    work::{self, Step},
};
use sqlx::PgConnection;
use std::collections::{BTreeMap, HashSet};
use tracing::Span;
use uuid::Uuid;

/// What became of a command.
#[derive(Debug, Clone)]
pub enum Advanced {
    /// The caller has no such order.
    Missing,
    /// The order stands where the command is not possible any more.
    Refused(Box<Order>),
    /// The order as it is now; unchanged when the command said nothing new.
    Now(Box<Order>),
}

/// A command on its way to an order.
pub struct Told {
    /// Which order.
    pub id: Uuid,
    /// What is wanted of it, or told it.
    pub command: Command,
    /// What brought it; what follows belongs to its trace.
    pub cause: Span,
}

/// Applies one command of somebody who may see `scope` only.
pub async fn advance(tx: &mut PgConnection, id: Uuid, scope: Scope, command: Command) -> Result<Advanced, Fault> {
    if let Some(owner) = scope.owner() {
        let visible = store::load_for_update(tx, id, scope).await?.is_some_and(|order| order.placed.customer_id == owner);
        if !visible {
            return Ok(Advanced::Missing);
        }
    }
    let mut all = advance_all(tx, vec![Told { id, command, cause: Span::current() }]).await?;
    Ok(all.pop().unwrap_or(Advanced::Missing))
}

/// Applies commands in their order: loads and locks, decides, stores, publishes, and makes the next steps due, all in `tx`.
pub async fn advance_all(tx: &mut PgConnection, told: Vec<Told>) -> Result<Vec<Advanced>, Fault> {
    let ids: Vec<Uuid> = told.iter().map(|t| t.id).collect::<HashSet<_>>().into_iter().collect();
    let loaded = store::load_all_for_update(tx, &ids).await?;
    let mut orders: BTreeMap<Uuid, Changed> =
        loaded.into_iter().map(|order| (order.placed.id, Changed { before: order.version, order, events: vec![] })).collect();
    let (mut outgoing, mut steps) = (Vec::new(), Vec::new());
    let mut results = Vec::with_capacity(told.len());
    for Told { id, command, cause } in told {
        let Some(changed) = orders.get_mut(&id) else {
            results.push(Advanced::Missing);
            continue;
        };
        match decide(&changed.order, command) {
            Err(Refused) => results.push(Advanced::Refused(Box::new(changed.order.clone()))),
            Ok(events) => {
                cause.in_scope(|| {
                    for event in &events {
                        outgoing.push(happen(changed, event));
                        steps.extend(next_step(&changed.order, event).map(|step| Step::new(step, id)));
                    }
                });
                results.push(Advanced::Now(Box::new(changed.order.clone())));
            }
        }
    }
    let changed: Vec<&Changed> = orders.values().filter(|c| !c.events.is_empty()).collect();
    if !changed.is_empty() {
        store::save_all(tx, &changed).await?;
        outbox::append(tx, &outgoing).await?;
        steps.sort_unstable();
        steps.dedup();
        work::enqueue_all(tx, &steps).await?;
    }
    Ok(results)
}

/// One event happens to an order; what is stored and what is published are the same bytes.
fn happen(changed: &mut Changed, event: &Event) -> outbox::Event {
    let at = now().max(changed.order.updated_at);
    changed.order.apply(event, at);
    count(&changed.order, event);
    let stored = StoredEvent { version: changed.order.version, kind: kind(event).to_owned(), payload: payload(event, &changed.order), at };
    let published = published(&changed.order, event, &stored);
    changed.events.push(stored);
    published
}

/// Counts the event once it is committed, and the money it stands for.
fn count(order: &Order, event: &Event) {
    count_on_commit(metrics::EVENTS.of([kind(event)]), 1);
    let moved = match event {
        Event::PaymentProcessed { .. } => &metrics::REVENUE,
        Event::PaymentReturned { refunded: true, .. } => &metrics::REFUNDED,
        _ => return,
    };
    let total = &order.placed.total;
    count_on_commit(moved.of([total.currency().code()]), total.minor().unsigned_abs());
}

/// An event as it goes out, in the current trace.
pub fn published(order: &Order, event: &Event, stored: &StoredEvent) -> outbox::Event {
    outbox::Event::from_bytes(TOPIC, kind(event), order.placed.id, stored.version, stored.payload.clone())
}

fn next_step(order: &Order, event: &Event) -> Option<&'static str> {
    match event {
        Event::PaymentAuthorized { .. } => Some("commit"),
        Event::PaymentUnknown { .. } if plant::bug("bug-07") => Some("release"),
        Event::Cancelled { .. } if order.stock_held => Some("release"),
        _ => None,
    }
}
