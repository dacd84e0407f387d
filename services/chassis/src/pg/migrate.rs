//! Migrations: the chassis' own tables and the role's, each with its own book of what was applied.

use std::{collections::HashSet, time::Duration};

use sqlx::migrate::{MigrateDatabase as _, Migrator};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool, Postgres};

use super::PgSettings;
use crate::error::Fault;

/// The chassis' book; the role's is sqlx's default `_sqlx_migrations`.
const BOOK: &str = "chassis_migrations";
/// Who holds this advisory lock of a database is at work on its schema.
const LOCK: i64 = 0x6d65_7263_6174_6f00;
/// How often another asks whether it is its turn.
const TURN: Duration = Duration::from_millis(100);

fn chassis() -> Migrator {
    let mut migrator = ours(&sqlx::migrate!("./migrations"));
    migrator.dangerous_set_table_name(BOOK);
    migrator
}

/// The same migrations, under our own lock, and for a database that may be newer than this program: a release that was rolled back must
/// start there again.
fn ours(migrations: &Migrator) -> Migrator {
    let mut migrator = Migrator::with_migrations(migrations.iter().cloned().collect());
    migrator.set_ignore_missing(true).set_locking(false);
    migrator
}

/// Waits for its turn by asking again. To wait inside `pg_advisory_lock` would hold a snapshot, and the one at work may be at
/// `create index concurrently`, which waits until every older snapshot is gone: a deadlock, and an index that is invalid for ever.
async fn turn(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    while !sqlx::query_scalar::<_, bool>("select pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut *connection).await? {
        tokio::time::sleep(TURN).await;
    }
    Ok(())
}

/// Creates the database when it is missing and applies both sets, the chassis' first. Runs on a session without time limits.
/// Safe when several processes do it at once, beside a running release of either age, and when the database is already newer.
pub async fn migrate(settings: &PgSettings, role: Option<&Migrator>) -> Result<(), Fault> {
    if !Postgres::database_exists(&settings.url).await? {
        match Postgres::create_database(&settings.url).await {
            // Another process may have created it in the meantime.
            Err(error) if !Postgres::database_exists(&settings.url).await? => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
    }
    let mut connection = settings.plain()?.connect().await?;
    let failed = |error: sqlx::migrate::MigrateError| Fault::Internal(format!("migration of {} failed: {error}", settings.role));
    turn(&mut connection).await?;
    chassis().run_direct(None, &mut connection, false).await.map_err(failed)?;
    if let Some(role) = role {
        ours(role).run_direct(None, &mut connection, false).await.map_err(failed)?;
    }
    connection.close().await?;
    Ok(())
}

/// Whether a migration of either set has not been applied to this database. Migrations newer than this program do not count:
/// an older instance keeps running next to a newer one.
pub async fn pending(pool: &PgPool, role: Option<&Migrator>) -> Result<bool, Fault> {
    if missing(pool, &chassis(), "select version from chassis_migrations where success").await? {
        return Ok(true);
    }
    match role {
        Some(role) => missing(pool, role, "select version from _sqlx_migrations where success").await,
        None => Ok(false),
    }
}

async fn missing(pool: &PgPool, migrator: &Migrator, applied: &'static str) -> Result<bool, Fault> {
    let applied: HashSet<i64> = match sqlx::query_scalar(applied).fetch_all(pool).await {
        Ok(versions) => versions.into_iter().collect(),
        // undefined_table: nothing was ever applied
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => return Ok(migrator.iter().next().is_some()),
        Err(error) => return Err(error.into()),
    };
    Ok(migrator.iter().any(|m| !m.migration_type.is_down_migration() && !applied.contains(&m.version)))
}
