//! Writing, always under the payment's row lock: that is what orders its events.

use super::{AttemptRow, PaymentRow};
use crate::{
    domain::{Attempt, Effect, Payment, Step},
    events,
};
use mercato_chassis::{Fault, outbox, work};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

/// Locks an order, so that two of its events cannot both find that it has no payment. Returns the database's time.
pub async fn lock_order(tx: &mut PgConnection, order: Uuid) -> Result<OffsetDateTime, Fault> {
    let now = sqlx::query_scalar!(
        r#"select clock_timestamp() as "now!" from pg_advisory_xact_lock(hashtextextended('payment:' || $1::text, 0))"#,
        order.to_string(),
    );
    Ok(now.fetch_one(tx).await?)
}

/// The payment of an order, locked, and the database's time.
pub async fn load_by_order(tx: &mut PgConnection, order: Uuid) -> Result<Option<(Payment, OffsetDateTime)>, Fault> {
    let row = sqlx::query_as!(
        PaymentRow,
        r#"select id, order_id, customer_id, status, amount_minor, currency, captured_minor, refunded_minor, method, token,
                  failure_reason, cancelled, unknown_told, version, created_at, updated_at, clock_timestamp() as "now!"
           from payment where order_id = $1 for update"#,
        order,
    )
    .fetch_optional(&mut *tx)
    .await?;
    with_attempts(tx, row).await
}

/// The payment an attempt belongs to, locked, and the database's time.
pub async fn load_by_attempt(tx: &mut PgConnection, attempt: Uuid) -> Result<Option<(Payment, OffsetDateTime)>, Fault> {
    let row = sqlx::query_as!(
        PaymentRow,
        r#"select p.id, p.order_id, p.customer_id, p.status, p.amount_minor, p.currency, p.captured_minor, p.refunded_minor, p.method,
                  p.token, p.failure_reason, p.cancelled, p.unknown_told, p.version, p.created_at, p.updated_at,
                  clock_timestamp() as "now!"
           from payment p where p.id = (select a.payment_id from attempt a where a.id = $1) for update"#,
        attempt,
    )
    .fetch_optional(&mut *tx)
    .await?;
    with_attempts(tx, row).await
}

async fn with_attempts(tx: &mut PgConnection, row: Option<PaymentRow>) -> Result<Option<(Payment, OffsetDateTime)>, Fault> {
    let Some(row) = row else { return Ok(None) };
    let attempts = sqlx::query_as!(
        AttemptRow,
        "select id, step, epoch, provider_key, amount_minor, state, tries, looks, detail, sent_at, due_at
         from attempt where payment_id = $1 order by at, epoch",
        row.id,
    )
    .fetch_all(tx)
    .await?;
    row.into_payment(attempts).map(Some)
}

/// Stores a payment that begins, with everything that follows.
pub async fn insert(tx: &mut PgConnection, payment: &Payment, effects: &[Effect]) -> Result<(), Fault> {
    let view = &payment.view;
    sqlx::query!(
        "insert into payment (id, order_id, customer_id, status, amount_minor, currency, method, token, failure_reason, cancelled,
                              unknown_told, version, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        view.id,
        view.order_id,
        view.customer_id,
        view.status.name(),
        view.amount,
        view.currency,
        view.method,
        payment.token.0,
        view.failure_reason,
        payment.cancelled,
        payment.unknown_told,
        payment.version,
        view.created_at,
        view.updated_at,
    )
    .execute(&mut *tx)
    .await?;
    for attempt in &payment.attempts {
        upsert(tx, payment, attempt).await?;
    }
    follow(tx, payment, effects).await
}

/// Stores what changed of a payment, with everything that follows.
pub async fn save(tx: &mut PgConnection, before: &Payment, after: &Payment, effects: &[Effect]) -> Result<(), Fault> {
    let view = &after.view;
    if before != after {
        sqlx::query!(
            "update payment set status = $2, captured_minor = $3, refunded_minor = $4, token = $5, failure_reason = $6, cancelled = $7,
                    unknown_told = $8, version = $9, updated_at = $10 where id = $1",
            view.id,
            view.status.name(),
            view.captured,
            view.refunded,
            after.token.0,
            view.failure_reason,
            after.cancelled,
            after.unknown_told,
            after.version,
            view.updated_at,
        )
        .execute(&mut *tx)
        .await?;
    }
    for attempt in &after.attempts {
        if before.attempt(attempt.id) != Some(attempt) {
            upsert(tx, after, attempt).await?;
        }
    }
    follow(tx, after, effects).await
}

async fn upsert(tx: &mut PgConnection, payment: &Payment, attempt: &Attempt) -> Result<(), Fault> {
    sqlx::query!(
        "insert into attempt (id, payment_id, step, epoch, provider_key, amount_minor, state, tries, looks, detail, sent_at, due_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         on conflict (id) do update set state = excluded.state, tries = excluded.tries, looks = excluded.looks,
                detail = excluded.detail, sent_at = excluded.sent_at, due_at = excluded.due_at",
        attempt.id,
        payment.view.id,
        attempt.step.name(),
        attempt.epoch,
        attempt.key,
        attempt.amount,
        attempt.state.name(),
        attempt.tries,
        attempt.looks,
        attempt.detail,
        attempt.sent_at,
        attempt.due_at,
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn follow(tx: &mut PgConnection, payment: &Payment, effects: &[Effect]) -> Result<(), Fault> {
    let mut news = Vec::new();
    for effect in effects {
        match effect {
            Effect::Emit(kind, sequence, view) => news.push(events::event(*kind, *sequence, view)?),
            Effect::Post(posting) => post(tx, payment, posting).await?,
            Effect::Do(step, attempt, after) => work::enqueue(tx, step.name(), *attempt, *after).await?,
            Effect::LookUp(attempt, after) => work::enqueue(tx, LOOK_UP, *attempt, *after).await?,
            Effect::OpenCase(step, reason) => open_case(tx, payment, *step, reason).await?,
            Effect::CloseCase(step) => close_case(tx, payment, *step).await?,
            Effect::Alarm(detail) => {
                metrics::counter!("payment_mismatches_total").increment(1);
                tracing::error!(order = %payment.view.order_id, detail, "the provider's answer does not fit what was asked");
            }
        }
    }
    outbox::append(tx, &news).await
}

/// The kind of work items that look an attempt up; those that do a step are named like the step.
pub const LOOK_UP: &str = "look_up";

async fn post(tx: &mut PgConnection, payment: &Payment, posting: &crate::domain::ledger::Posting) -> Result<(), Fault> {
    let lines = posting.lines();
    let numbers: Vec<i16> = (1..).take(lines.len()).collect();
    let accounts: Vec<String> = lines.iter().map(|line| line.account.to_owned()).collect();
    let sides: Vec<String> = lines.iter().map(|line| line.side.to_owned()).collect();
    let amounts: Vec<i64> = lines.iter().map(|line| line.amount).collect();
    sqlx::query!(
        "insert into ledger (tx_id, line, payment_id, account, side, amount_minor, currency, provider_ref)
         select $1, l.line, $2, l.account, l.side, l.amount, $3, $4
         from unnest($5::smallint[], $6::text[], $7::text[], $8::bigint[]) as l (line, account, side, amount)",
        posting.attempt,
        payment.view.id,
        payment.view.currency,
        posting.key,
        &numbers,
        &accounts,
        &sides,
        &amounts,
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn open_case(tx: &mut PgConnection, payment: &Payment, step: Step, reason: &str) -> Result<(), Fault> {
    tracing::error!(order = %payment.view.order_id, step = step.name(), reason, "a person has to look");
    sqlx::query!(
        "insert into operator_case (id, order_id, step, reason) values ($1, $2, $3, $4)
         on conflict (order_id, step) where closed_at is null do nothing",
        mercato_chassis::ids::new(),
        payment.view.order_id,
        step.name(),
        reason,
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn close_case(tx: &mut PgConnection, payment: &Payment, step: Step) -> Result<(), Fault> {
    sqlx::query!(
        "update operator_case set closed_at = clock_timestamp() where order_id = $1 and step = $2 and closed_at is null",
        payment.view.order_id,
        step.name(),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Notes a webhook; false when it was noted before.
pub async fn take_webhook(tx: &mut PgConnection, id: &str, provider: &str, kind: &str, reference: &str) -> Result<bool, Fault> {
    let rows = sqlx::query!(
        "insert into webhook_event (event_id, provider, kind, reference) values ($1, $2, $3, $4) on conflict (event_id) do nothing",
        id,
        provider,
        kind,
        reference,
    )
    .execute(tx)
    .await?;
    Ok(rows.rows_affected() == 1)
}
