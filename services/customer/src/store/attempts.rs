//! Failure counters of sign-ins. Names and addresses are kept as hashes only.

use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::{duration, seconds};
use crate::domain::throttle::{self, WINDOW};

/// Key of a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterKey([u8; 32]);

impl CounterKey {
    /// The counter of an account name, whether there is such an account or not.
    pub fn account(name: &str) -> Self {
        Self(Sha256::digest(format!("account:{name}")).into())
    }

    /// The counter of a client address.
    pub fn address(address: &str) -> Self {
        Self(Sha256::digest(format!("address:{address}")).into())
    }
}

/// How long this counter still has to wait; `None`: not at all.
pub async fn blocked(tx: &mut PgConnection, key: &CounterKey) -> Result<Option<Duration>, sqlx::Error> {
    let left = sqlx::query_scalar!(
        r#"select extract(epoch from blocked_until - now())::float8 as "left!" from login_attempt where key = $1 and blocked_until > now()"#,
        &key.0[..]
    )
    .fetch_optional(tx)
    .await?;
    Ok(left.map(duration))
}

/// Counts a failure, and starts the wait when there were `limit`. Answers how long the counter was blocked already, in which case
/// nothing is counted. Callers of one counter run one after the other: of any number at once exactly `limit` get through.
pub async fn charge(tx: &mut PgConnection, key: &CounterKey, limit: i32) -> Result<Option<Duration>, sqlx::Error> {
    let failures = sqlx::query_scalar!(
        "insert into login_attempt (key, failures, last_at) values ($1, 1, now())
         on conflict (key) do update set last_at = now(), blocked_until = null,
             failures = case when login_attempt.last_at < now() - make_interval(secs => $2) then 1 else login_attempt.failures + 1 end
         where login_attempt.blocked_until is null or login_attempt.blocked_until <= now()
         returning failures",
        &key.0[..],
        seconds(WINDOW)
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(failures) = failures else {
        return Ok(Some(blocked(tx, key).await?.unwrap_or(Duration::from_secs(1))));
    };
    if let Some(wait) = throttle::wait(failures, limit) {
        sqlx::query!(
            "update login_attempt set blocked_until = now() + make_interval(secs => $2) where key = $1",
            &key.0[..],
            seconds(wait)
        )
        .execute(tx)
        .await?;
    }
    Ok(None)
}

/// Forgets a counter after a success.
pub async fn clear(tx: &mut PgConnection, key: &CounterKey) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from login_attempt where key = $1", &key.0[..]).execute(tx).await?;
    Ok(())
}

/// Removes counters that count for nothing any more, at most `limit` at once. Answers how many.
pub async fn purge(tx: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from login_attempt where key in (
             select key from login_attempt where last_at < now() - make_interval(secs => $1) and (blocked_until is null or blocked_until < now())
             limit $2 for update skip locked)",
        seconds(WINDOW),
        limit
    )
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}
