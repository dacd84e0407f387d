//! Signing keys. The private half is only ever seen sealed here.

use std::time::Duration;

use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;

use super::seconds;
use crate::domain::keys::Times;

/// A key as it is stored.
pub struct StoredKey {
    /// JWK thumbprint.
    pub kid: String,
    /// Ed25519 public key, 32 bytes.
    pub public_key: Vec<u8>,
    /// Sealed private key.
    pub sealed_key: Vec<u8>,
    /// When it signs.
    pub times: Times,
}

/// Lets one rotation run at a time, over all instances, until this transaction ends.
pub async fn lock(tx: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('mercato.customer.signing_key', 0))").fetch_one(tx).await?;
    Ok(())
}

/// The database's clock, by which all instances agree which key signs.
pub async fn now(executor: impl PgExecutor<'_>) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(executor).await
}

/// Every key, oldest first.
pub async fn all(executor: impl PgExecutor<'_>) -> Result<Vec<StoredKey>, sqlx::Error> {
    let rows = sqlx::query!("select kid, public_key, sealed_key, active_from, retired_at from signing_key order by active_from, kid")
        .fetch_all(executor)
        .await?;
    Ok(rows
        .into_iter()
        .map(|row| StoredKey {
            kid: row.kid,
            public_key: row.public_key,
            sealed_key: row.sealed_key,
            times: Times { active_from: row.active_from, retired_at: row.retired_at },
        })
        .collect())
}

/// The key that signs now.
pub async fn signing(executor: impl PgExecutor<'_>) -> Result<Option<StoredKey>, sqlx::Error> {
    let row = sqlx::query!(
        "select kid, public_key, sealed_key, active_from, retired_at from signing_key
         where active_from <= clock_timestamp() and (retired_at is null or retired_at > clock_timestamp())
         order by active_from desc limit 1"
    )
    .fetch_optional(executor)
    .await?;
    Ok(row.map(|row| StoredKey {
        kid: row.kid,
        public_key: row.public_key,
        sealed_key: row.sealed_key,
        times: Times { active_from: row.active_from, retired_at: row.retired_at },
    }))
}

/// Adds a key that takes over from the open one at `active_from`.
pub async fn take_over(
    tx: &mut PgConnection,
    kid: &str,
    public_key: &[u8],
    sealed_key: &[u8],
    active_from: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    sqlx::query!("update signing_key set retired_at = $1 where retired_at is null", active_from).execute(&mut *tx).await?;
    sqlx::query!(
        "insert into signing_key (kid, public_key, sealed_key, active_from) values ($1, $2, $3, $4)",
        kid,
        public_key,
        sealed_key,
        active_from
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Replaces a sealed key by the same, sealed with another secret.
pub async fn seal_anew(tx: &mut PgConnection, kid: &str, sealed_key: &[u8]) -> Result<(), sqlx::Error> {
    sqlx::query!("update signing_key set sealed_key = $2 where kid = $1", kid, sealed_key).execute(tx).await?;
    Ok(())
}

/// Removes keys retired for longer than `afterlife`: nothing they signed can be alive. Answers how many.
pub async fn purge(tx: &mut PgConnection, afterlife: Duration) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!("delete from signing_key where retired_at < now() - make_interval(secs => $1)", seconds(afterlife))
        .execute(tx)
        .await?;
    Ok(done.rows_affected())
}
