//! Migrations: the chassis' own tables and the role's, each with its own book of what was applied.

use std::collections::HashSet;

use sqlx::migrate::{MigrateDatabase as _, Migrator};
use sqlx::{ConnectOptions as _, Connection as _, PgPool, Postgres};

use super::PgSettings;
use crate::error::Fault;

/// The chassis' book; the role's is sqlx's default `_sqlx_migrations`.
const BOOK: &str = "chassis_migrations";

fn chassis() -> Migrator {
    let mut migrator = sqlx::migrate!("./migrations");
    migrator.dangerous_set_table_name(BOOK);
    migrator
}

/// Creates the database when it is missing and applies both sets, the chassis' first. Runs on a session without time limits.
/// Safe when several processes do it at once.
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
    chassis().run_direct(None, &mut connection, false).await.map_err(failed)?;
    if let Some(role) = role {
        role.run_direct(None, &mut connection, false).await.map_err(failed)?;
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
