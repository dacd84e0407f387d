//! PostgreSQL: one pool per role, and the unit of work that is the only way to write.
//!
//! A unit of work runs in a task of its own, so a caller that goes away (gRPC drops its handlers at the deadline) can never leave a
//! connection inside an open transaction. A connection goes back to the pool only after a COMMIT or ROLLBACK that was answered;
//! in every other case it is thrown away.

mod meters;
mod migrate;
mod unit;
mod warm;

use std::str::FromStr as _;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use log::LevelFilter;
use sqlx::ConnectOptions as _;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::{Notify, Semaphore};

use crate::error::Fault;
use crate::tasks::Tasks;
use crate::work::Lanes;

pub use migrate::{migrate, pending};
pub use unit::count_on_commit;
pub(crate) use unit::{hand_over, hint_outbox, hint_work, workers};

/// A statement that took longer is logged.
const SLOW: Duration = Duration::from_secs(1);
/// How long a unit of work of a role may take.
const UNIT_BUDGET: Duration = Duration::from_secs(2);

/// How one role reaches its database.
#[derive(Clone)]
pub struct PgSettings {
    /// `postgres://user:password@host:port/database`; a secret.
    pub url: String,
    /// The role's name; the sessions show as `mercato-<role>`.
    pub role: String,
    /// Connections at most.
    pub pool_size: u32,
    /// How long a caller waits for a connection before it is told [`Fault::Saturated`].
    pub acquire_timeout: Duration,
    /// How long a statement waits for a row lock.
    pub lock_timeout: Duration,
    /// How long a statement may run.
    pub statement_timeout: Duration,
    /// How long a unit of work may take unless its caller's deadline is nearer.
    pub unit_budget: Duration,
    /// How long a session may lie still inside a transaction: the second line of defence should one ever be left there.
    pub idle_timeout: Duration,
}

impl PgSettings {
    /// The settings every role starts from: 8 connections, 2 s for a connection (over a slow link it takes six round trips), 500 ms for a lock,
    /// 2 s for a statement and for a unit of work, 5 s for a session that lies still.
    pub fn new(role: impl Into<String>, url: impl Into<String>) -> PgSettings {
        PgSettings {
            url: url.into(),
            role: role.into(),
            pool_size: 8,
            acquire_timeout: Duration::from_secs(2),
            lock_timeout: Duration::from_millis(500),
            statement_timeout: Duration::from_secs(2),
            unit_budget: UNIT_BUDGET,
            idle_timeout: Duration::from_secs(5),
        }
    }

    /// The same with this time for everything, where how long the database takes is not the question.
    #[must_use]
    pub fn patient(self, limit: Duration) -> PgSettings {
        PgSettings {
            acquire_timeout: limit,
            lock_timeout: limit,
            statement_timeout: limit,
            unit_budget: limit,
            idle_timeout: limit,
            ..self
        }
    }

    /// Options for a session without the time limits of the pool's sessions.
    pub(crate) fn plain(&self) -> Result<PgConnectOptions, Fault> {
        let options = PgConnectOptions::from_str(&self.url).map_err(|_| Fault::Internal("the database url cannot be parsed".into()))?;
        let options = options.application_name(&format!("mercato-{}", self.role));
        // Statements are counted and timed by PostgreSQL (pg_stat_statements); here only a slow one is worth a line.
        Ok(options.log_statements(LevelFilter::Off).log_slow_statements(LevelFilter::Warn, SLOW))
    }

    /// Options for a session with the time limits.
    pub(crate) fn limited(&self) -> Result<PgConnectOptions, Fault> {
        let millis = |d: Duration| d.as_millis().to_string();
        Ok(self.plain()?.options([
            ("lock_timeout", millis(self.lock_timeout)),
            ("statement_timeout", millis(self.statement_timeout)),
            ("idle_in_transaction_session_timeout", millis(self.idle_timeout)),
        ]))
    }
}

/// A role's database. Clones share the pool.
#[derive(Clone)]
pub struct Db {
    inner: Arc<Inner>,
}

struct Inner {
    role: String,
    pool: PgPool,
    /// Connections of the pool at most.
    size: usize,
    unit_budget: Duration,
    meters: meters::Meters,
    warm: warm::Warm,
    tasks: Tasks,
    /// Units of work of callers: more than twice the pool only queue up, so they are turned away.
    foreground: Arc<Semaphore>,
    /// Units of work of consumers and jobs: they wait for their turn and never hold more than half of the pool.
    background: Arc<Semaphore>,
    appended: Arc<Notify>,
    enqueued: Arc<Notify>,
    /// The workers of this process. They hold clones of us, hence weak.
    workers: OnceLock<Weak<Lanes>>,
}

/// Units of work of callers that may be under way with a pool of this size.
fn foreground(size: usize) -> usize {
    size * 2
}

/// Units of work of consumers and jobs that may be under way with a pool of this size.
fn background(size: usize) -> usize {
    (size / 2).max(1)
}

impl Db {
    /// Opens the pool with one connection. Errors: [`Fault::Unavailable`] when PostgreSQL does not answer.
    pub async fn connect(settings: &PgSettings, tasks: &Tasks) -> Result<Db, Fault> {
        let pool = PgPoolOptions::new()
            .max_connections(settings.pool_size)
            .min_connections(2)
            .acquire_timeout(settings.acquire_timeout)
            .test_before_acquire(true)
            .max_lifetime(Duration::from_secs(600))
            .idle_timeout(Duration::from_secs(120))
            .connect_with(settings.limited()?)
            .await?;
        let size = settings.pool_size as usize;
        let meters = meters::Meters::new(&settings.role);
        let db = Db {
            inner: Arc::new(Inner {
                role: settings.role.clone(),
                pool,
                size,
                unit_budget: settings.unit_budget,
                // The pool keeps the greater part for reads.
                warm: warm::Warm::new(size / 2, meters.discarded.clone()),
                meters,
                tasks: tasks.clone(),
                foreground: Arc::new(Semaphore::new(foreground(size))),
                background: Arc::new(Semaphore::new(background(size))),
                appended: Arc::new(Notify::new()),
                enqueued: Arc::new(Notify::new()),
                workers: OnceLock::new(),
            }),
        };
        meters::watch(&db);
        Ok(db)
    }

    /// For SELECTs, each its own transaction. Writing through it breaks the promise of [`Db::uow`].
    pub fn read(&self) -> &PgPool {
        &self.inner.pool
    }

    /// The role whose database this is.
    pub fn role(&self) -> &str {
        &self.inner.role
    }

    /// Whether PostgreSQL answers now.
    pub async fn ping(&self) -> Result<(), Fault> {
        sqlx::query("select 1").execute(&self.inner.pool).await?;
        Ok(())
    }

    /// From now on steps go from the transaction that asks for them straight to these workers, as long as they live.
    pub(crate) fn hand_over_to(&self, workers: &Arc<Lanes>) {
        self.inner.workers.get_or_init(|| Arc::downgrade(workers));
    }

    /// Closes the pool; call it after all tasks have ended.
    pub async fn close(&self) {
        self.inner.warm.clear();
        self.inner.pool.close().await;
    }

    /// Signalled after a commit that appended to the outbox. Only a hint: the relay polls as well.
    pub(crate) fn appended(&self) -> Arc<Notify> {
        self.inner.appended.clone()
    }

    /// Signalled after a commit that enqueued work. Only a hint: the workers poll as well.
    pub(crate) fn enqueued(&self) -> Arc<Notify> {
        self.inner.enqueued.clone()
    }
}
