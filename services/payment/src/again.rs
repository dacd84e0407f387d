//! What payment says again when the broker has lost it. Its events are not kept; but each one carries the whole payment, and whoever hears
//! them moves an order forward only, so how things are now, said under every missing number, leads to the same end. Money that was taken and
//! given back is the one thing that has to be heard twice.

use crate::{
    domain::{EventKind, Payment, Status, Step},
    events::{self, TOPIC},
    store::Unit,
};
use futures_util::future::BoxFuture;
use mercato_chassis::{
    Fault,
    outbox::Event,
    role::{Again, Retold},
};
use sqlx::PgConnection;
use uuid::Uuid;

/// The topic `payments`.
pub const PAYMENTS: Again = Again {
    topic: TOPIC,
    aggregates: "select order_id, version from payment where order_id > $1 order by order_id limit $2",
    events: Retold::Now(as_they_are),
};

fn as_they_are<'t>(tx: &'t mut PgConnection, missing: &'t [(Uuid, i64)]) -> BoxFuture<'t, Result<Vec<Event>, Fault>> {
    Box::pin(async move {
        let orders: Vec<Uuid> = missing.iter().map(|(order, _)| *order).collect();
        let unit = Unit::load(tx, &orders).await?;
        let mut said = Vec::new();
        for (order, after) in missing {
            let Some(payment) = unit.payment(*order) else { continue };
            for number in after + 1..=payment.version {
                let taken_before = number < payment.version && payment.view.captured > 0;
                let kind = if taken_before { EventKind::Processed } else { kind(payment) };
                said.push(events::event(kind, number, &payment.view)?);
            }
        }
        Ok(said)
    })
}

fn kind(payment: &Payment) -> EventKind {
    match payment.view.status {
        Status::Pending => EventKind::Initiated,
        Status::Authorized => EventKind::Authorized,
        Status::Captured => EventKind::Processed,
        Status::Failed => EventKind::Failed,
        Status::Unknown => EventKind::Unknown,
        Status::Voided => EventKind::Voided,
        Status::Refunded => EventKind::Refunded,
        Status::NeedsOperator => EventKind::Stuck(payment.attempts.last().map_or(Step::Authorize, |attempt| attempt.step)),
    }
}
