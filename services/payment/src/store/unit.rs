//! Payments of one transaction: locked together, changed by the domain one after another, saved together.

use super::{
    AttemptRow, LOOK_UP, PaymentRow, assemble,
    write::{self, Case, Posted},
};
use crate::{
    domain::{Effect, Payment},
    events,
};
use mercato_chassis::{
    Fault, outbox, plant,
    work::{self, Step},
};
use sqlx::PgConnection;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use time::OffsetDateTime;
use uuid::Uuid;

/// A payment as it was found, if it was, and as it is now.
struct Slot {
    before: Option<Payment>,
    after: Payment,
}

/// Payments under their row locks, which is what orders their events, with everything that follows from their changes. Nothing is
/// written before [`Unit::save`].
pub struct Unit {
    now: OffsetDateTime,
    slots: BTreeMap<Uuid, Slot>,
    events: Vec<outbox::Event>,
    posted: Vec<Posted>,
    steps: Vec<Step>,
    later: Vec<(&'static str, Uuid, Duration)>,
    cases: Vec<Case>,
}

impl Unit {
    /// Locks the payments of these orders, as far as they have one. Two statements; the locks are taken in the order of ids, so that two
    /// transactions cannot wait for each other in a circle. Work items are locked after payments, never before.
    pub async fn load(tx: &mut PgConnection, orders: &[Uuid]) -> Result<Self, Fault> {
        let rows = sqlx::query_as!(
            PaymentRow,
            r#"select id, order_id, customer_id, status, amount_minor, currency, captured_minor, refunded_minor, method, token,
                      failure_reason, cancelled, unknown_told, version, created_at, updated_at, clock_timestamp() as "now!"
               from payment where order_id = any($1) order by id for update"#,
            orders,
        )
        .fetch_all(&mut *tx)
        .await?;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
        let (found, now) = if ids.is_empty() { (vec![], None) } else { assemble(rows, attempts(&mut *tx, &ids).await?)? };
        let now = match now {
            Some(now) => now,
            None => sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(tx).await?,
        };
        let slot = |payment: Payment| (payment.view.order_id, Slot { before: Some(payment.clone()), after: payment });
        let slots = found.into_iter().map(slot).collect();
        Ok(Self { now, slots, events: vec![], posted: vec![], steps: vec![], later: vec![], cases: vec![] })
    }

    /// The database's time.
    pub fn now(&self) -> OffsetDateTime {
        self.now
    }

    /// The payment of an order as it is by now.
    pub fn payment(&self, order: Uuid) -> Option<&Payment> {
        self.slots.get(&order).map(|slot| &slot.after)
    }

    /// Changes the payment of an order; `None` when it has none. What follows is the caller's to give to [`Unit::follow`].
    pub fn change<T>(&mut self, order: Uuid, change: impl FnOnce(&mut Payment, OffsetDateTime) -> T) -> Option<T> {
        let payment = &mut self.slots.get_mut(&order)?.after;
        let stamp = std::mem::replace(&mut payment.view.updated_at, self.now);
        let was = payment.clone();
        let changed = change(payment, self.now);
        if same_row(&was, payment) {
            payment.view.updated_at = stamp;
        }
        Some(changed)
    }

    /// A payment begins. Its order must have none.
    pub fn begin(&mut self, payment: Payment) {
        self.slots.entry(payment.view.order_id).or_insert(Slot { before: None, after: payment });
    }

    /// Notes what follows from a change of an order's payment; events belong to the current trace.
    ///
    /// # Errors
    /// [`Fault::Internal`] when the order has no payment here.
    pub fn follow(&mut self, order: Uuid, effects: Vec<Effect>) -> Result<(), Fault> {
        let Some(Slot { after: payment, .. }) = self.slots.get(&order) else {
            return Err(Fault::Internal(format!("order {order} has no payment here")));
        };
        for effect in effects {
            match effect {
                Effect::Emit(kind, sequence, view) => self.events.push(events::event(kind, sequence, &view)?),
                Effect::Post(posting) => {
                    self.posted.push(Posted { payment: payment.view.id, currency: payment.view.currency.clone(), posting });
                }
                Effect::Do(step, attempt, Duration::ZERO) => self.steps.push(Step::new(step.name(), attempt)),
                Effect::LookUp(attempt, Duration::ZERO) => self.steps.push(Step::new(LOOK_UP, attempt)),
                Effect::Do(step, attempt, after) => self.later.push((step.name(), attempt, after)),
                Effect::LookUp(attempt, after) => self.later.push((LOOK_UP, attempt, after)),
                Effect::OpenCase(step, reason) => {
                    plant::crash_point("C-11");
                    tracing::error!(%order, step = step.name(), reason, "a person has to look");
                    self.cases.push(Case { order, step, open: Some(reason) });
                }
                Effect::CloseCase(step) => self.cases.push(Case { order, step, open: None }),
                Effect::Alarm(detail) => {
                    crate::metrics::MISMATCHES.one([]);
                    tracing::error!(%order, detail, "the provider's answer does not fit what was asked");
                }
            }
        }
        Ok(())
    }

    /// The payments of the steps that are due at once, by attempt, as they are by now.
    pub fn asked(&self) -> Vec<(Uuid, Arc<Payment>)> {
        let mut asked = Vec::with_capacity(self.steps.len());
        for Slot { after, .. } in self.slots.values() {
            let mut attempts = after.attempts.iter().filter(|a| self.steps.iter().any(|step| step.is(a.step.name(), a.id))).peekable();
            if attempts.peek().is_some() {
                let payment = Arc::new(after.clone());
                asked.extend(attempts.map(|attempt| (attempt.id, payment.clone())));
            }
        }
        asked
    }

    /// Writes everything: each table with one statement, delayed steps and cases, which are rare, one by one.
    pub async fn save(mut self, tx: &mut PgConnection) -> Result<(), Fault> {
        let new: Vec<&Payment> = self.slots.values().filter(|s| s.before.is_none()).map(|s| &s.after).collect();
        write::insert_payments(&mut *tx, &new).await?;
        let known = || self.slots.values().filter_map(|s| Some((s.before.as_ref()?, &s.after)));
        let changed: Vec<&Payment> = known().filter(|(before, after)| !same_row(before, after)).map(|(_, after)| after).collect();
        write::update_payments(&mut *tx, &changed).await?;
        let attempts: Vec<_> = self.slots.values().flat_map(Slot::changed_attempts).collect();
        write::upsert_attempts(&mut *tx, &attempts).await?;
        write::post(&mut *tx, &self.posted).await?;
        for case in &self.cases {
            case.write(&mut *tx).await?;
        }
        outbox::append(&mut *tx, &self.events).await?;
        self.steps.sort_unstable();
        self.steps.dedup();
        work::enqueue_all(&mut *tx, &self.steps).await?;
        self.later.sort_unstable();
        for (kind, subject, after) in self.later {
            work::enqueue(&mut *tx, kind, subject, after).await?;
        }
        Ok(())
    }
}

impl Slot {
    /// The payment's id with each attempt that is new or otherwise than before.
    fn changed_attempts(&self) -> impl Iterator<Item = (Uuid, &crate::domain::Attempt)> {
        let was = |id| self.before.as_ref().and_then(|before| before.attempt(id));
        self.after.attempts.iter().filter(move |now| was(now.id) != Some(now)).map(|now| (self.after.view.id, now))
    }
}

/// Whether the payment itself is as before; its attempts have rows of their own.
fn same_row(a: &Payment, b: &Payment) -> bool {
    let head = |p: &Payment| (p.cancelled, p.unknown_told, p.version);
    a.view == b.view && a.token == b.token && head(a) == head(b)
}

async fn attempts(tx: &mut PgConnection, payments: &[Uuid]) -> Result<Vec<AttemptRow>, Fault> {
    let rows = sqlx::query_as!(
        AttemptRow,
        r#"select id, payment_id, step, epoch, provider_key, amount_minor, state, tries, looks, detail, sent_at, due_at,
                  clock_timestamp() as "now!"
           from attempt where payment_id = any($1) order by at, epoch"#,
        payments,
    );
    Ok(rows.fetch_all(tx).await?)
}
