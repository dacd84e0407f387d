//! Reading without a lock.

use super::{AttemptRow, PaymentRow, assemble, unreadable};
use crate::domain::{Payment, Status, View, reference_of_key};
use mercato_chassis::{Fault, Scope};
use sqlx::{PgConnection, PgPool};
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// The payment of an order, when it is in the caller's scope.
pub async fn view(pool: &PgPool, order: Uuid, scope: Scope) -> Result<Option<View>, Fault> {
    let row = sqlx::query!(
        "select id, order_id, customer_id, status, amount_minor, currency, captured_minor, refunded_minor, method, failure_reason,
                created_at, updated_at
         from payment where order_id = $1 and ($2::uuid is null or customer_id = $2)",
        order,
        scope.owner(),
    )
    .fetch_optional(pool)
    .await?;
    row.map(|row| {
        let status = Status::of_name(&row.status).ok_or_else(|| unreadable("status", &row.status))?;
        Ok(View {
            id: row.id,
            order_id: row.order_id,
            customer_id: row.customer_id,
            status,
            amount: row.amount_minor,
            currency: row.currency,
            captured: row.captured_minor,
            refunded: row.refunded_minor,
            method: row.method,
            failure_reason: row.failure_reason,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    })
    .transpose()
}

/// The payments these attempts belong to, and the database's time.
pub async fn by_attempts(connection: &mut PgConnection, attempts: &[Uuid]) -> Result<(Vec<Payment>, OffsetDateTime), Fault> {
    let rows = sqlx::query_as!(
        PaymentRow,
        r#"select p.id, p.order_id, p.customer_id, p.status, p.amount_minor, p.currency, p.captured_minor, p.refunded_minor, p.method,
                  p.token, p.failure_reason, p.cancelled, p.unknown_told, p.version, p.created_at, p.updated_at,
                  clock_timestamp() as "now!"
           from payment p where p.id in (select a.payment_id from attempt a where a.id = any($1))"#,
        attempts,
    )
    .fetch_all(&mut *connection)
    .await?;
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let attempts = sqlx::query_as!(
        AttemptRow,
        r#"select id, payment_id, step, epoch, provider_key, amount_minor, state, tries, looks, detail, sent_at, due_at,
                  clock_timestamp() as "now!"
           from attempt where payment_id = any($1) order by at, epoch"#,
        &ids,
    )
    .fetch_all(connection)
    .await?;
    let (payments, now) = assemble(rows, attempts)?;
    Ok((payments, now.unwrap_or_else(OffsetDateTime::now_utc)))
}

/// Open attempts that should have moved this long ago: their work item is lost or late.
pub async fn lost_attempts(pool: &PgPool, older_than: Duration, limit: i64) -> Result<Vec<Uuid>, Fault> {
    let ids = sqlx::query_scalar!(
        "select id from attempt where state in ('INTENT', 'UNKNOWN') and due_at < clock_timestamp() - make_interval(secs => $1)
         order by due_at limit $2",
        older_than.as_secs_f64(),
        limit,
    );
    Ok(ids.fetch_all(pool).await?)
}

/// For the alarms: open operator cases, payments in doubt, and how many seconds ago the oldest of these was sent.
pub async fn open_cases(pool: &PgPool) -> Result<(i64, i64, f64), Fault> {
    let select = "select (select count(*) from operator_case where closed_at is null), count(*),
                         coalesce(extract(epoch from clock_timestamp() - min(coalesce(sent_at, at))), 0)::float8
                  from attempt where state = 'UNKNOWN'";
    Ok(sqlx::query_as(select).fetch_one(pool).await?)
}

/// One step in our ledger, named as the provider names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// The attempt.
    pub tx_id: Uuid,
    /// The provider's idempotency key.
    pub key: String,
    /// What was done.
    pub step: String,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: String,
}

/// A difference that a person has looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The provider's idempotency key.
    pub key: String,
    /// What was done.
    pub step: String,
    /// Our amount in minor units; 0 when we have none.
    pub ours: i64,
    /// The provider's.
    pub theirs: i64,
}

/// What we posted under these provider keys, and which of the keys belong to attempts that are still open. A key that names none of our
/// orders is none of ours.
pub async fn ledger_of_keys(pool: &PgPool, keys: &[String]) -> Result<(Vec<LedgerRow>, Vec<String>), Fault> {
    let orders: Vec<Uuid> = keys.iter().filter_map(|key| reference_of_key(key)).collect();
    // Open ones first: an attempt that is done between the two statements is then in both, not in neither.
    let open = sqlx::query_scalar!(
        "select a.provider_key from payment p join attempt a on a.payment_id = p.id
         where p.order_id = any($2) and a.provider_key = any($1) and (
             a.state in ('INTENT', 'UNKNOWN', 'STUCK') or a.state = 'ABANDONED' and exists (
                 select from attempt v where v.payment_id = a.payment_id and v.step = 'void' and v.state in ('INTENT', 'UNKNOWN', 'STUCK')))",
        keys,
        &orders,
    )
    .fetch_all(pool)
    .await?;
    let rows = sqlx::query_as!(
        LedgerRow,
        r#"select l.tx_id, l.provider_ref as key, a.step, l.amount_minor as amount, l.currency
           from payment p join attempt a on a.payment_id = p.id join posting l on l.tx_id = a.id and l.nth = 1
           where p.order_id = any($2) and l.provider_ref = any($1)"#,
        keys,
        &orders,
    )
    .fetch_all(pool)
    .await?;
    Ok((rows, open))
}

/// Our ledger by transaction, after this one; for comparing it with the provider's.
pub async fn ledger_page(pool: &PgPool, after: Uuid, limit: i64) -> Result<Vec<LedgerRow>, Fault> {
    let rows = sqlx::query_as!(
        LedgerRow,
        r#"select l.tx_id, l.provider_ref as key, a.step, l.amount_minor as amount, l.currency
           from posting l join attempt a on a.id = l.tx_id where l.tx_id > $1 and l.nth = 1 order by l.tx_id limit $2"#,
        after,
        limit,
    );
    Ok(rows.fetch_all(pool).await?)
}

/// Those of these differences, by their keys, that a person has settled.
pub async fn settled_differences(pool: &PgPool, keys: &[String]) -> Result<Vec<Settled>, Fault> {
    let rows = sqlx::query_as!(
        Settled,
        "select provider_key as key, step, ours, theirs from settled_difference where provider_key = any($1)",
        keys,
    );
    Ok(rows.fetch_all(pool).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mercato_testkit::TestDatabase;

    #[tokio::test]
    async fn a_payment_in_doubt_is_told_with_the_age_of_its_last_call() {
        let database = TestDatabase::new("payment", Some(&crate::MIGRATIONS)).await.unwrap();
        let pool = database.db.read();
        assert_eq!(open_cases(pool).await.unwrap(), (0, 0, 0.0));
        for (state, age) in [("UNKNOWN", 100), ("UNKNOWN", 700), ("INTENT", 9000), ("DONE", 9000)] {
            let attempt = "insert into attempt (id, payment_id, step, epoch, provider_key, amount_minor, state, sent_at, due_at)
                           values ($1, $1, 'authorize', 1, 'key', 1, $2, clock_timestamp() - make_interval(secs => $3), clock_timestamp())";
            sqlx::query(attempt).bind(Uuid::new_v4()).bind(state).bind(f64::from(age)).execute(pool).await.unwrap();
        }
        let (cases, unknown, oldest) = open_cases(pool).await.unwrap();
        assert_eq!((cases, unknown), (0, 2));
        assert!(oldest >= 700.0, "{oldest}");
    }
}
