//! Sessions and their refresh tokens. A session's row lock orders everything that happens to its tokens.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{duration, seconds};
use crate::domain::session::Presented;

/// SHA-256 of a refresh token.
pub type TokenHash = [u8; 32];

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its holder left.
    Logout,
    /// A refresh token was used twice.
    Reuse,
    /// The customer's roles were set.
    RolesChanged,
}

impl EndReason {
    fn name(self) -> &'static str {
        match self {
            EndReason::Logout => "logout",
            EndReason::Reuse => "reuse",
            EndReason::RolesChanged => "roles_changed",
        }
    }
}

/// A presented token, its session, and whose it is.
pub struct Known {
    /// The session.
    pub session_id: Uuid,
    /// Its customer.
    pub customer_id: Uuid,
    /// The token it was last exchanged for.
    pub successor: Option<Vec<u8>>,
    /// What the rules look at.
    pub presented: Presented,
}

/// Opens a session.
pub async fn insert(tx: &mut PgConnection, id: Uuid, customer_id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("insert into session (id, customer_id) values ($1, $2)", id, customer_id).execute(tx).await?;
    Ok(())
}

/// Adds a token to a session.
pub async fn insert_token(tx: &mut PgConnection, hash: &TokenHash, session_id: Uuid, life: Duration) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into refresh_token (hash, session_id, expires_at) values ($1, $2, now() + make_interval(secs => $3))",
        &hash[..],
        session_id,
        seconds(life)
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Locks the session of a token, then looks at the token. `None`: there is no such token.
pub async fn lock(tx: &mut PgConnection, hash: &TokenHash) -> Result<Option<Known>, sqlx::Error> {
    sqlx::query_scalar!(
        "select s.id from refresh_token t join session s on s.id = t.session_id where t.hash = $1 for update of s",
        &hash[..]
    )
    .fetch_optional(&mut *tx)
    .await?;
    // A statement of its own: it sees what the previous holder of the lock committed.
    let row = sqlx::query!(
        r#"select s.id, s.customer_id, t.successor, t.spent, t.expires_at <= now() as "expired!", s.ended_at is not null as "ended!",
                  extract(epoch from clock_timestamp() - t.used_at)::float8 as used_ago,
                  coalesce((select n.used_at is not null from refresh_token n where n.hash = t.successor), false) as "successor_used!"
           from refresh_token t join session s on s.id = t.session_id where t.hash = $1"#,
        &hash[..]
    )
    .fetch_optional(tx)
    .await?;
    Ok(row.map(|row| Known {
        session_id: row.id,
        customer_id: row.customer_id,
        successor: row.successor,
        presented: Presented {
            session_ended: row.ended,
            expired: row.expired,
            used_ago: row.used_ago.map(duration),
            spent: row.spent,
            successor_used: row.successor_used,
        },
    }))
}

/// Marks a token as exchanged for `successor`. The time of the first use stays.
pub async fn exchange(tx: &mut PgConnection, hash: &TokenHash, successor: &TokenHash, repeated: bool) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update refresh_token set used_at = coalesce(used_at, clock_timestamp()), successor = $2, spent = $3 where hash = $1",
        &hash[..],
        &successor[..],
        repeated
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Kills a token whose answer was lost: whoever presents it ends the session.
pub async fn poison(tx: &mut PgConnection, hash: &[u8]) -> Result<(), sqlx::Error> {
    sqlx::query!("update refresh_token set used_at = coalesce(used_at, clock_timestamp()), spent = true where hash = $1", hash)
        .execute(tx)
        .await?;
    Ok(())
}

/// Ends a session, if it has not ended.
pub async fn end(tx: &mut PgConnection, id: Uuid, reason: EndReason) -> Result<(), sqlx::Error> {
    sqlx::query!("update session set ended_at = now(), end_reason = $2 where id = $1 and ended_at is null", id, reason.name())
        .execute(tx)
        .await?;
    Ok(())
}

/// Ends the session a token belongs to, if there is one.
pub async fn end_by_token(tx: &mut PgConnection, hash: &TokenHash, reason: EndReason) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update session set ended_at = now(), end_reason = $2
         where id = (select session_id from refresh_token where hash = $1) and ended_at is null",
        &hash[..],
        reason.name()
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Ends all sessions of a customer.
pub async fn end_all(tx: &mut PgConnection, customer_id: Uuid, reason: EndReason) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update session set ended_at = now(), end_reason = $2 where customer_id = $1 and ended_at is null",
        customer_id,
        reason.name()
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes sessions of which no token is alive any more, at most `limit` at once, and their tokens. Answers how many.
pub async fn purge(tx: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from session where id in (
             select s.id from session s
             where not exists (select 1 from refresh_token t where t.session_id = s.id and t.expires_at > now())
             limit $1 for update skip locked)",
        limit
    )
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}
