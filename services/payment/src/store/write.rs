//! The statements behind [`super::Unit`], each for many rows.

use crate::domain::{Attempt, Payment, Step, View, ledger::Posting};
use mercato_chassis::Fault;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// A posting of a payment.
pub struct Posted {
    pub payment: Uuid,
    pub currency: String,
    pub posting: Posting,
}

/// A case that opens for this reason, or closes.
pub struct Case {
    pub order: Uuid,
    pub step: Step,
    pub open: Option<String>,
}

fn views<T>(payments: &[&Payment], f: impl Fn(&View) -> T) -> Vec<T> {
    payments.iter().map(|payment| f(&payment.view)).collect()
}

fn heads<T>(payments: &[&Payment], f: impl Fn(&Payment) -> T) -> Vec<T> {
    payments.iter().map(|payment| f(payment)).collect()
}

/// Stores payments that begin. One that another transaction has begun meanwhile makes the whole transaction fail, with a fault after
/// which it is run again and finds it.
pub async fn insert_payments(tx: &mut PgConnection, new: &[&Payment]) -> Result<(), Fault> {
    if new.is_empty() {
        return Ok(());
    }
    let begun = sqlx::query!(
        "insert into payment (id, order_id, customer_id, status, amount_minor, currency, captured_minor, refunded_minor, method, token,
                              failure_reason, cancelled, unknown_told, version, created_at, updated_at)
         select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::text[], $7::bigint[], $8::bigint[],
                              $9::text[], $10::text[], $11::text[], $12::boolean[], $13::boolean[], $14::bigint[], $15::timestamptz[],
                              $16::timestamptz[])
         on conflict do nothing",
        &views(new, |v| v.id),
        &views(new, |v| v.order_id),
        &views(new, |v| v.customer_id),
        &views(new, |v| v.status.name().to_owned()),
        &views(new, |v| v.amount),
        &views(new, |v| v.currency.clone()),
        &views(new, |v| v.captured),
        &views(new, |v| v.refunded),
        &views(new, |v| v.method.clone()),
        &heads(new, |p| p.token.0.clone()),
        &views(new, |v| v.failure_reason.clone()),
        &heads(new, |p| p.cancelled),
        &heads(new, |p| p.unknown_told),
        &heads(new, |p| p.version),
        &views(new, |v| v.created_at),
        &views(new, |v| v.updated_at),
    )
    .execute(tx)
    .await?;
    if usize::try_from(begun.rows_affected()).ok() == Some(new.len()) {
        return Ok(());
    }
    Err(Fault::Unavailable { peer: "postgres".to_owned(), detail: "a payment was begun by another transaction meanwhile".to_owned() })
}

/// Stores what changed of payments themselves.
pub async fn update_payments(tx: &mut PgConnection, changed: &[&Payment]) -> Result<(), Fault> {
    if changed.is_empty() {
        return Ok(());
    }
    let written = sqlx::query!(
        "update payment p set status = c.status, captured_minor = c.captured, refunded_minor = c.refunded, token = c.token,
                failure_reason = c.reason, cancelled = c.cancelled, unknown_told = c.told, version = c.version, updated_at = c.at
         from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::boolean[], $8::boolean[], $9::bigint[],
                     $10::timestamptz[])
              as c (id, status, captured, refunded, token, reason, cancelled, told, version, at)
         where p.id = c.id",
        &views(changed, |v| v.id),
        &views(changed, |v| v.status.name().to_owned()),
        &views(changed, |v| v.captured),
        &views(changed, |v| v.refunded),
        &heads(changed, |p| p.token.0.clone()),
        &views(changed, |v| v.failure_reason.clone()),
        &heads(changed, |p| p.cancelled),
        &heads(changed, |p| p.unknown_told),
        &heads(changed, |p| p.version),
        &views(changed, |v| v.updated_at),
    )
    .execute(tx)
    .await?;
    if usize::try_from(written.rows_affected()).ok() == Some(changed.len()) {
        return Ok(());
    }
    Err(Fault::Internal("a payment went away under its own lock".to_owned()))
}

/// Stores attempts with the payments they belong to.
pub async fn upsert_attempts(tx: &mut PgConnection, attempts: &[(Uuid, &Attempt)]) -> Result<(), Fault> {
    if attempts.is_empty() {
        return Ok(());
    }
    fn each<T>(attempts: &[(Uuid, &Attempt)], f: impl Fn(&Attempt) -> T) -> Vec<T> {
        attempts.iter().map(|(_, attempt)| f(attempt)).collect()
    }
    sqlx::query!(
        "insert into attempt (id, payment_id, step, epoch, provider_key, amount_minor, state, tries, looks, detail, sent_at, due_at)
         select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::integer[], $5::text[], $6::bigint[], $7::text[], $8::integer[],
                              $9::integer[], $10::text[], $11::timestamptz[], $12::timestamptz[])
         on conflict (id) do update set state = excluded.state, tries = excluded.tries, looks = excluded.looks,
                detail = excluded.detail, sent_at = excluded.sent_at, due_at = excluded.due_at",
        &each(attempts, |a| a.id),
        &attempts.iter().map(|(payment, _)| *payment).collect::<Vec<Uuid>>(),
        &each(attempts, |a| a.step.name().to_owned()),
        &each(attempts, |a| a.epoch),
        &each(attempts, |a| a.key.clone()),
        &each(attempts, |a| a.amount),
        &each(attempts, |a| a.state.name().to_owned()),
        &each(attempts, |a| a.tries),
        &each(attempts, |a| a.looks),
        &each(attempts, |a| a.detail.clone()),
        &each(attempts, |a| a.sent_at) as &[Option<OffsetDateTime>],
        &each(attempts, |a| a.due_at),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes postings into the ledger, after the attempts they belong to.
pub async fn post(tx: &mut PgConnection, posted: &[Posted]) -> Result<(), Fault> {
    if posted.is_empty() {
        return Ok(());
    }
    let each = || posted.iter().flat_map(|posted| (1_i16..).zip(posted.posting.entries()).map(move |(nth, entry)| (posted, nth, entry)));
    let written = sqlx::query!(
        "insert into posting (tx_id, nth, payment_id, debit, credit, amount_minor, currency, provider_ref)
         select p.tx_id, p.nth, p.payment_id, p.debit, p.credit, p.amount_minor, p.currency, p.provider_ref
         from unnest($1::uuid[], $2::smallint[], $3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::text[])
              as p (tx_id, nth, payment_id, debit, credit, amount_minor, currency, provider_ref)
         join attempt a on a.id = p.tx_id and a.payment_id = p.payment_id",
        &each().map(|(posted, ..)| posted.posting.attempt).collect::<Vec<_>>(),
        &each().map(|(_, nth, _)| nth).collect::<Vec<_>>(),
        &each().map(|(posted, ..)| posted.payment).collect::<Vec<_>>(),
        &each().map(|(.., entry)| entry.debit.to_owned()).collect::<Vec<_>>(),
        &each().map(|(.., entry)| entry.credit.to_owned()).collect::<Vec<_>>(),
        &each().map(|(posted, ..)| posted.posting.amount).collect::<Vec<_>>(),
        &each().map(|(posted, ..)| posted.currency.clone()).collect::<Vec<_>>(),
        &each().map(|(posted, ..)| posted.posting.key.clone()).collect::<Vec<_>>(),
    )
    .execute(tx)
    .await?;
    if usize::try_from(written.rows_affected()).ok() == Some(each().count()) {
        return Ok(());
    }
    Err(Fault::Internal("a posting belongs to no attempt of its payment".to_owned()))
}

impl Case {
    /// Opens the case, unless one is open for this step, or closes it.
    pub async fn write(&self, tx: &mut PgConnection) -> Result<(), Fault> {
        match &self.open {
            Some(reason) => {
                sqlx::query!(
                    "insert into operator_case (id, order_id, step, reason) values ($1, $2, $3, $4)
                     on conflict (order_id, step) where closed_at is null do nothing",
                    mercato_chassis::ids::new(),
                    self.order,
                    self.step.name(),
                    reason,
                )
                .execute(tx)
                .await?
            }
            None => {
                sqlx::query!(
                    "update operator_case set closed_at = clock_timestamp() where order_id = $1 and step = $2 and closed_at is null",
                    self.order,
                    self.step.name(),
                )
                .execute(tx)
                .await?
            }
        };
        Ok(())
    }
}
