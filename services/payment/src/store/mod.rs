//! All SQL. Payments are read under their row locks, changed by the domain, and written back with everything that follows: many of them
//! with as many statements as one.

mod read;
mod unit;
mod webhook;
mod write;

pub use read::{LedgerRow, by_attempts, ledger_of_keys, ledger_page, lost_attempts, open_cases, settled_differences, view};
pub use unit::Unit;
pub use webhook::{Note, any_doubt, take_webhooks};

use crate::domain::{Attempt, AttemptState, Payment, Status, Step, Token, View};
use mercato_chassis::Fault;
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// The kind of work items that look an attempt up; those that do a step are named like the step.
pub const LOOK_UP: &str = "look_up";

/// A row of `payment`.
struct PaymentRow {
    id: Uuid,
    order_id: Uuid,
    customer_id: Uuid,
    status: String,
    amount_minor: i64,
    currency: String,
    captured_minor: i64,
    refunded_minor: i64,
    method: String,
    token: String,
    failure_reason: String,
    cancelled: bool,
    unknown_told: bool,
    version: i64,
    created_at: OffsetDateTime,
    updated_at: OffsetDateTime,
    now: OffsetDateTime,
}

/// A row of `attempt`.
struct AttemptRow {
    id: Uuid,
    payment_id: Uuid,
    step: String,
    epoch: i32,
    provider_key: String,
    amount_minor: i64,
    state: String,
    tries: i32,
    looks: i32,
    detail: String,
    sent_at: Option<OffsetDateTime>,
    due_at: OffsetDateTime,
    now: OffsetDateTime,
}

fn unreadable(what: &str, value: &str) -> Fault {
    Fault::Internal(format!("the store has an unknown {what} `{value}`"))
}

impl PaymentRow {
    fn into_payment(self, attempts: Vec<AttemptRow>) -> Result<Payment, Fault> {
        let status = Status::of_name(&self.status).ok_or_else(|| unreadable("status", &self.status))?;
        let view = View {
            id: self.id,
            order_id: self.order_id,
            customer_id: self.customer_id,
            status,
            amount: self.amount_minor,
            currency: self.currency,
            captured: self.captured_minor,
            refunded: self.refunded_minor,
            method: self.method,
            failure_reason: self.failure_reason,
            created_at: self.created_at,
            updated_at: self.updated_at,
        };
        let attempts = attempts.into_iter().map(AttemptRow::into_attempt).collect::<Result<_, _>>()?;
        let (cancelled, unknown_told, version) = (self.cancelled, self.unknown_told, self.version);
        Ok(Payment { view, token: Token(self.token), cancelled, unknown_told, version, attempts })
    }
}

/// Payments with their attempts, and the database's latest time in the rows; `None` without rows.
fn assemble(rows: Vec<PaymentRow>, attempts: Vec<AttemptRow>) -> Result<(Vec<Payment>, Option<OffsetDateTime>), Fault> {
    let now = rows.iter().map(|row| row.now).chain(attempts.iter().map(|row| row.now)).max();
    let mut of_payment: HashMap<Uuid, Vec<AttemptRow>> = HashMap::new();
    for attempt in attempts {
        of_payment.entry(attempt.payment_id).or_default().push(attempt);
    }
    let payment = |row: PaymentRow| {
        let attempts = of_payment.remove(&row.id).unwrap_or_default();
        row.into_payment(attempts)
    };
    Ok((rows.into_iter().map(payment).collect::<Result<_, _>>()?, now))
}

impl AttemptRow {
    fn into_attempt(self) -> Result<Attempt, Fault> {
        Ok(Attempt {
            id: self.id,
            step: Step::of_name(&self.step).ok_or_else(|| unreadable("step", &self.step))?,
            epoch: self.epoch,
            key: self.provider_key,
            amount: self.amount_minor,
            state: AttemptState::of_name(&self.state).ok_or_else(|| unreadable("attempt state", &self.state))?,
            tries: self.tries,
            looks: self.looks,
            detail: self.detail,
            sent_at: self.sent_at,
            due_at: self.due_at,
        })
    }
}
