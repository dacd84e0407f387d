//! What the life of an order means for its payment. Everything here runs inside the consumer's transaction and calls nobody.

use crate::{
    convert,
    domain::{Effect, NewPayment, Payment},
    store,
};
use mercato_chassis::{Fault, ids};
use mercato_contracts::mercato::ordering::v1 as ordering;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// An order was placed: its payment begins, unless it ended before or began already.
pub async fn created(tx: &mut PgConnection, event: ordering::OrderCreated) -> Result<(), Fault> {
    let new = convert::new_payment(event.order.as_ref(), event.payment_token)?;
    begin(tx, new, Payment::begin_for_order).await
}

/// An order stands: the money is taken.
pub async fn confirmed(tx: &mut PgConnection, order: Uuid) -> Result<(), Fault> {
    change(tx, order, Payment::order_confirmed)
        .await?
        .ok_or_else(|| Fault::Internal(format!("order {order} was confirmed without payment")))
}

/// An order ended: whatever is held or taken goes back. Without a payment one is written that has ended already.
pub async fn cancelled(tx: &mut PgConnection, order: Uuid, event: ordering::OrderCancelled) -> Result<(), Fault> {
    if change(tx, order, Payment::order_cancelled).await?.is_some() {
        return Ok(());
    }
    let new = convert::new_payment(event.order.as_ref(), String::new())?;
    begin(tx, new, Payment::ended_before_it_began).await
}

type Beginning = fn(NewPayment, Uuid, OffsetDateTime) -> (Payment, Vec<Effect>);

async fn begin(tx: &mut PgConnection, new: NewPayment, beginning: Beginning) -> Result<(), Fault> {
    let now = store::lock_order(tx, new.order_id).await?;
    if store::load_by_order(tx, new.order_id).await?.is_some() {
        return Ok(());
    }
    let id = ids::derived("payment", &[&new.order_id.to_string()]);
    let (payment, effects) = beginning(new, id, now);
    store::insert(tx, &payment, &effects).await
}

async fn change(tx: &mut PgConnection, order: Uuid, change: fn(&mut Payment, OffsetDateTime) -> Vec<Effect>) -> Result<Option<()>, Fault> {
    let Some((before, now)) = store::load_by_order(tx, order).await? else { return Ok(None) };
    let mut after = before.clone();
    after.view.updated_at = now;
    let effects = change(&mut after, now);
    store::save(tx, &before, &after, &effects).await?;
    Ok(Some(()))
}
