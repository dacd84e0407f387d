//! Periodic work. Every instance does it; doing it twice changes nothing.

use std::time::Duration;

use mercato_chassis::error::Fault;
use mercato_chassis::jobs::Job;
use mercato_chassis::pg::Db;

use crate::app::keys::Keys;
use crate::store::{attempts, sessions};

/// Rows removed in one transaction.
const BATCH: i64 = 1000;
/// Time one such transaction may take.
const BUDGET: Duration = Duration::from_secs(5);

/// The jobs of customer.
pub fn all(db: &Db, keys: &Keys) -> Vec<Job> {
    let (db, keys) = (db.clone(), keys.clone());
    vec![
        Job::new("customer_key_rotation", Duration::from_secs(60), move || {
            let keys = keys.clone();
            async move { keys.rotate().await }
        }),
        Job::new("customer_purge", Duration::from_secs(600), move || {
            let db = db.clone();
            async move { purge(&db).await }
        }),
    ]
}

/// Removes dead sessions and forgotten counters, batch by batch until nothing is left.
async fn purge(db: &Db) -> Result<(), Fault> {
    loop {
        let removed = db
            .uow_within(BUDGET, |tx| {
                Box::pin(async move { Ok::<_, Fault>(sessions::purge(tx, BATCH).await? + attempts::purge(tx, BATCH).await?) })
            })
            .await?;
        if removed < u64::try_from(BATCH).unwrap_or(u64::MAX) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use mercato_chassis::ids;
    use mercato_testkit::TestDatabase;

    use super::*;

    #[tokio::test]
    async fn what_is_dead_goes_and_what_is_alive_stays() {
        let database = TestDatabase::new("customer", Some(&crate::MIGRATIONS)).await.unwrap();
        let pool = database.db.read();
        let (customer, dead, alive) = (ids::new(), ids::new(), ids::new());
        sqlx::query("insert into customer (id, username, email) values ($1, 'sample', 'sample@example.com')")
            .bind(customer)
            .execute(pool)
            .await
            .unwrap();
        for (session, life) in [(dead, "-1 second"), (alive, "1 day")] {
            sqlx::query("insert into session (id, customer_id) values ($1, $2)").bind(session).bind(customer).execute(pool).await.unwrap();
            let token =
                "insert into refresh_token (hash, session_id, expires_at) values (sha256($1::text::bytea), $2, now() + $3::interval)";
            sqlx::query(token).bind(life).bind(session).bind(life).execute(pool).await.unwrap();
        }
        let counters = "insert into login_attempt (key, failures, last_at, blocked_until) values
            ('old', 1, now() - interval '16 minutes', null), ('waiting', 9, now() - interval '16 minutes', now() + interval '1 minute'), ('new', 1, now(), null)";
        sqlx::query(counters).execute(pool).await.unwrap();

        purge(&database.db).await.unwrap();

        let sessions: Vec<uuid::Uuid> = sqlx::query_scalar("select id from session").fetch_all(pool).await.unwrap();
        assert_eq!(sessions, [alive]);
        let tokens: i64 = sqlx::query_scalar("select count(*) from refresh_token").fetch_one(pool).await.unwrap();
        assert_eq!(tokens, 1);
        let left: Vec<String> =
            sqlx::query_scalar("select encode(key, 'escape') from login_attempt order by 1").fetch_all(pool).await.unwrap();
        assert_eq!(left, ["new", "waiting"]);
    }
}
