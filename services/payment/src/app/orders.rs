//! What the life of an order means for its payment. Everything here runs inside the consumer's transaction and calls nobody.

use super::Fresh;
use crate::{
    convert,
    domain::{Effect, NewPayment, Payment},
    store::Unit,
};
use mercato_chassis::{Fault, ids, inbox::Received, telemetry};
use mercato_contracts::mercato::ordering::v1 as ordering;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// Applies the events of one transaction in their order: loads and locks all payments, decides, saves.
///
/// No lock guards an order without a payment. Its events come one after another, so nobody else begins the payment; should it happen,
/// [`Unit::save`] fails and the transaction is run again.
pub async fn apply(tx: &mut PgConnection, events: &[&Received], fresh: &Fresh) -> Result<(), Fault> {
    let mut orders: Vec<Uuid> = events.iter().map(|event| event.aggregate).collect();
    orders.sort_unstable();
    orders.dedup();
    let mut unit = Unit::load(tx, &orders).await?;
    for event in events {
        event.in_trace(|| one(&mut unit, event))?;
    }
    let (asked, now) = (unit.asked(), unit.now());
    unit.save(tx).await?;
    // Should this not be committed, no step begins that could take them.
    fresh.keep(asked, now);
    Ok(())
}

fn one(unit: &mut Unit, event: &Received) -> Result<(), Fault> {
    let order = event.aggregate;
    telemetry::note("mercato.order_id", order);
    match event.kind.as_str() {
        "order.created" => created(unit, order, event.decode()?),
        "order.confirmed" => match change(unit, order, Payment::order_confirmed)? {
            true => Ok(()),
            false => Err(Fault::Internal(format!("order {order} was confirmed without payment"))),
        },
        _ => cancelled(unit, order, event.decode()?),
    }
}

/// An order was placed: its payment begins, unless it ended before or began already.
fn created(unit: &mut Unit, order: Uuid, event: ordering::OrderCreated) -> Result<(), Fault> {
    let new = convert::new_payment(event.order.as_ref(), event.payment_token)?;
    begin(unit, order, new, Payment::begin_for_order)
}

/// An order ended: whatever is held or taken goes back. Without a payment one is written that has ended already.
fn cancelled(unit: &mut Unit, order: Uuid, event: ordering::OrderCancelled) -> Result<(), Fault> {
    if change(unit, order, Payment::order_cancelled)? {
        return Ok(());
    }
    let new = convert::new_payment(event.order.as_ref(), String::new())?;
    begin(unit, order, new, Payment::ended_before_it_began)
}

type Beginning = fn(NewPayment, Uuid, OffsetDateTime) -> (Payment, Vec<Effect>);

fn begin(unit: &mut Unit, order: Uuid, new: NewPayment, beginning: Beginning) -> Result<(), Fault> {
    if new.order_id != order {
        return Err(Fault::Internal(format!("an event of order {order} carries order {}", new.order_id)));
    }
    if unit.payment(order).is_some() {
        return Ok(());
    }
    let id = ids::derived("payment", &[&order.to_string()]);
    let (payment, effects) = beginning(new, id, unit.now());
    unit.begin(payment);
    unit.follow(order, effects)
}

/// False when the order has no payment.
fn change(unit: &mut Unit, order: Uuid, change: fn(&mut Payment, OffsetDateTime) -> Vec<Effect>) -> Result<bool, Fault> {
    let Some(effects) = unit.change(order, change) else { return Ok(false) };
    unit.follow(order, effects)?;
    Ok(true)
}
