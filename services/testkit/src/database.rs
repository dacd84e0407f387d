//! A database for one test.

use crate::{LONG, Parts};
use anyhow::Context as _;
use mercato_chassis::{
    pg::{self, Db, PgSettings},
    tasks::Tasks,
};
use sqlx::{Connection as _, PgConnection, migrate::Migrator};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::OnceCell;

const PREFIX: &str = "mercato_test_";
/// Seconds after which a database that nobody dropped is dropped; tests that run beside these keep theirs.
const LEFT_OVER: i64 = 3600;

/// A database of its own, migrated, dropped with this value.
pub struct TestDatabase {
    /// The database as services see it.
    pub db: Db,
    /// Its URL.
    pub url: String,
    /// The tasks its units of work run in.
    pub tasks: Tasks,
    _dropped: Dropped,
}

impl TestDatabase {
    /// A new database with the chassis' tables and the role's.
    ///
    /// # Errors
    /// When `DATABASE_URL` is not set or the server refuses.
    pub async fn new(role: &str, migrations: Option<&Migrator>) -> anyhow::Result<TestDatabase> {
        let (settings, dropped) = create(role, migrations).await?;
        let tasks = Tasks::new();
        let db = Db::connect(&settings.clone().patient(LONG), &tasks).await?;
        Ok(TestDatabase { db, url: settings.url, tasks, _dropped: dropped })
    }
}

/// Drops a database when it is dropped itself.
pub(crate) struct Dropped {
    url: String,
    name: String,
}

/// Creates and migrates a database with a name of its own.
pub(crate) async fn create(role: &str, migrations: Option<&Migrator>) -> anyhow::Result<(PgSettings, Dropped)> {
    static SWEPT: OnceCell<()> = OnceCell::const_new();
    let server = Parts::database_url()?;
    SWEPT
        .get_or_init(async || {
            if let Err(error) = sweep(&server).await {
                eprintln!("test databases that were left behind stay: {error:#}");
            }
        })
        .await;
    let name = format!("{PREFIX}{}_{role}_{:08x}", OffsetDateTime::now_utc().unix_timestamp(), rand::random::<u32>());
    let settings = PgSettings::new(role, with_database(&server, &name)?);
    let dropped = Dropped { url: server, name };
    pg::migrate(&settings, migrations).await.context("the test database cannot be made")?;
    Ok((settings, dropped))
}

fn with_database(url: &str, name: &str) -> anyhow::Result<String> {
    let (base, _) = url.rsplit_once('/').context("DATABASE_URL must end with a database name")?;
    Ok(format!("{base}/{name}"))
}

/// Drops what tests that were killed left behind.
async fn sweep(server: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(server).await.context("DATABASE_URL")?;
    let names: Vec<String> = sqlx::query_scalar("select datname::text from pg_database where datname like 'mercato\\_test\\_%'")
        .fetch_all(&mut connection)
        .await?;
    let now = OffsetDateTime::now_utc().unix_timestamp();
    for name in names {
        let made = name.strip_prefix(PREFIX).and_then(|rest| rest.split('_').next()).and_then(|text| text.parse::<i64>().ok());
        if made.is_some_and(|made| made + LEFT_OVER < now) {
            drop_database(&mut connection, &name).await?;
        }
    }
    Ok(())
}

async fn drop_database(connection: &mut PgConnection, name: &str) -> anyhow::Result<()> {
    let statement = sqlx::AssertSqlSafe(format!("drop database if exists \"{name}\" with (force)"));
    sqlx::query(statement).execute(connection).await?;
    Ok(())
}

impl Drop for Dropped {
    fn drop(&mut self) {
        let (url, name) = (self.url.clone(), self.name.clone());
        blocking("drop-test-database", async move {
            let mut connection = PgConnection::connect(&url).await?;
            drop_database(&mut connection, &name).await
        });
    }
}

/// Runs something to its end from a `drop`, on a thread of its own; what fails there is swept up by a later run.
pub(crate) fn blocking(what: &'static str, work: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    let thread = std::thread::spawn(move || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await? })
    });
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => eprintln!("{what}: {error:#}"),
        Err(_) => eprintln!("{what}: panicked"),
    }
}
