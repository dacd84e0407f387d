//! The unit of work.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::{Executor as _, PgConnection};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tracing::{Instrument as _, field};

use super::Db;
use super::warm::{Loan, Warm};
use crate::call;
use crate::error::{Fault, ServiceError};
use crate::metrics::{self, Counter};
use crate::telemetry;
use crate::work::{Item, Lanes, Place};

/// Retries of a transaction that PostgreSQL refused because of another one.
const CONFLICT_RETRIES: u32 = 3;

tokio::task_local! {
    static HINTS: Hints;
}

/// What the running transaction did that somebody waits for.
#[derive(Default)]
struct Hints {
    outbox: Cell<bool>,
    work: Cell<bool>,
    workers: Option<Arc<Lanes>>,
    handed: RefCell<Vec<(Item, Place)>>,
    counted: RefCell<Vec<(Counter, u64)>>,
}

pub(crate) fn hint_outbox() {
    // Outside a unit of work nobody is told; the relay's poll finds the rows.
    HINTS.try_with(|h| h.outbox.set(true)).ok();
}

pub(crate) fn hint_work() {
    HINTS.try_with(|h| h.work.set(true)).ok();
}

/// The workers that a step can be handed to after the commit; none outside a unit of work.
pub(crate) fn workers() -> Option<Arc<Lanes>> {
    HINTS.try_with(|h| h.workers.clone()).ok().flatten()
}

/// Begins a step that the running transaction leased once it has committed.
pub(crate) fn hand_over(item: Item, place: Place) {
    HINTS.try_with(|h| h.handed.borrow_mut().push((item, place))).ok();
}

/// Counts once the running transaction has committed, and not at all when it does not. Outside a unit of work nothing is counted.
pub fn count_on_commit(counter: Counter, n: u64) {
    HINTS.try_with(|h| h.counted.borrow_mut().push((counter, n))).ok();
}

/// A connection that is thrown away unless its transaction is known to have ended.
struct Session {
    loan: Option<Loan>,
    discarded: Counter,
}

impl Session {
    fn connection(&mut self) -> &mut PgConnection {
        &mut self.loan.as_mut().expect("a session holds its connection until it is given back").connection
    }

    fn give_back(mut self, warm: &Warm) {
        if let Some(loan) = self.loan.take() {
            warm.give(loan);
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(loan) = self.loan.take() {
            self.discarded.inc();
            drop(loan.connection.detach());
        }
    }
}

impl Db {
    /// Runs `f` in one transaction: the only way to write.
    ///
    /// It runs in its own task, which shutdown waits for, within the caller's deadline or `unit_budget`, whichever is nearer. `f` may run
    /// again when PostgreSQL reports a conflict (at most 3 times), so it must have no effect but on the connection it is given,
    /// and must not call anybody. Errors besides those of `f`: [`Fault::Saturated`] at once when too many units are under way,
    /// [`Fault::Timeout`] when nothing was applied, [`Fault::CommitUnknown`] when the commit was sent but not answered.
    pub async fn uow<T, E, F>(&self, f: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: ServiceError,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send + Sync + 'static,
    {
        #[cfg(feature = "plants")]
        if crate::plant::bug("bug-05") {
            return self.bare(f).await;
        }
        let left = call::current_deadline().map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Fault::Timeout.into());
        }
        let Ok(permit) = self.inner.foreground.clone().try_acquire_owned() else {
            metrics::DB_UNITS.one([&self.inner.role, "saturated"]);
            return Err(Fault::Saturated.into());
        };
        let most = self.inner.unit_budget;
        self.detached(Span::Transaction, permit, left.map_or(most, |left| left.min(most)), f).await
    }

    /// The same for consumers and jobs: an explicit budget, and instead of being turned away they wait for their turn.
    pub async fn uow_within<T, E, F>(&self, budget: Duration, f: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: ServiceError,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send + Sync + 'static,
    {
        let turn = tokio::time::timeout(budget, self.inner.background.clone().acquire_owned());
        match turn.await {
            Ok(Ok(permit)) => self.detached(Span::Transaction, permit, budget, f).await,
            Ok(Err(_)) | Err(_) => Err(Fault::Saturated.into()),
        }
    }

    /// The same for exactly one statement, which PostgreSQL makes a transaction by itself: two round trips less. Errors as for
    /// [`Db::uow_within`]; a statement that was not answered may have been applied.
    pub(crate) async fn statement<T, F>(&self, budget: Duration, f: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Fault>> + Send + Sync + 'static,
    {
        let turn = tokio::time::timeout(budget, self.inner.background.clone().acquire_owned());
        match turn.await {
            Ok(Ok(permit)) => self.detached(Span::Statement, permit, budget, f).await,
            Ok(Err(_)) | Err(_) => Err(Fault::Saturated),
        }
    }

    /// Reads, on a connection that units of work use as well: for what reads many times a second. Errors:
    /// [`Fault::Saturated`], [`Fault::Timeout`] after the time of a unit of work, and those of the statement.
    pub async fn look<T>(&self, f: impl for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Fault>>) -> Result<T, Fault> {
        let deadline = Instant::now() + self.inner.unit_budget;
        let mut session = self.session(deadline).await?;
        let traced = self.traced("read");
        let read = timeout_at(deadline, f(session.connection())).instrument(traced.clone()).await.unwrap_or(Err(Fault::Timeout));
        mark(&traced, outcome(&read));
        drop(traced);
        if read.as_ref().map_or_else(told, |_| true) {
            session.give_back(&self.inner.warm);
        }
        read
    }

    fn holding(&self, loan: Loan, began: Instant) -> Session {
        self.inner.meters.wait.took(began.elapsed());
        Session { loan: Some(loan), discarded: self.inner.meters.discarded.clone() }
    }

    async fn session(&self, deadline: Instant) -> Result<Session, Fault> {
        let began = Instant::now();
        if let Some(loan) = self.inner.warm.take().await {
            return Ok(self.holding(loan, began));
        }
        match timeout_at(deadline, self.inner.pool.acquire()).await {
            Ok(Ok(connection)) => Ok(self.holding(Loan::new(connection), began)),
            Ok(Err(error)) => Err(Fault::from(error)),
            Err(_) => Err(Fault::Saturated),
        }
    }

    /// The span of what is done in the database, when spans are exported and a trace is under way; none in the loops that only look for work.
    fn traced(&self, operation: &'static str) -> tracing::Span {
        let current = tracing::Span::current();
        if !telemetry::exporting() || current.is_none() {
            return current;
        }
        let role = self.role();
        tracing::info_span!("unit", otel.name = %format_args!("{operation} {role}"), otel.kind = "client", db.system.name = "postgresql",
            db.namespace = role, db.operation.name = operation, mercato.outcome = field::Empty, otel.status_code = field::Empty)
    }

    async fn detached<T, E, F>(&self, span: Span, permit: OwnedSemaphorePermit, budget: Duration, f: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: ServiceError,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>> + Send + Sync + 'static,
    {
        let (db, caller_deadline) = (self.clone(), call::current_deadline());
        let traced = self.traced(span.operation());
        let ended = traced.clone();
        let unit = async move {
            let result = db.with_retries(span, Instant::now() + budget, &f).await;
            mark(&ended, outcome(&result));
            drop(permit);
            result
        };
        let unit = HINTS.scope(self.hints(), unit).instrument(traced);
        let running = match caller_deadline {
            Some(at) => self.inner.tasks.track(call::with_deadline(at, unit)),
            None => self.inner.tasks.track(unit),
        };
        match running.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(Fault::Internal("a unit of work panicked".into()).into()),
            Err(_) => Err(Fault::CommitUnknown.into()), // the runtime is going down
        }
    }

    async fn with_retries<T, E, F>(&self, span: Span, deadline: Instant, f: &F) -> Result<T, E>
    where
        E: ServiceError,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>>,
    {
        let mut retries = 0;
        loop {
            let result = self.once(span, deadline, f).await;
            let outcome = outcome(&result);
            metrics::DB_UNITS.one([&self.inner.role, outcome]);
            let pause = Duration::from_millis(rand::random_range(1..=(10 << retries)));
            if outcome != "conflict" || retries == CONFLICT_RETRIES || Instant::now() + pause >= deadline {
                return result;
            }
            retries += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// One transaction from its begin to its end.
    async fn once<T, E, F>(&self, span: Span, deadline: Instant, f: &F) -> Result<T, E>
    where
        E: ServiceError,
        F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>>,
    {
        let mut session = self.session(deadline).await?;
        let held = Instant::now();
        let mut committing = matches!(span, Span::Statement);
        let steps = async {
            match span {
                Span::Transaction => transaction(session.connection(), f, &mut committing).await,
                Span::Statement => single(session.connection(), f).await,
            }
        };
        let (result, ended) = match timeout_at(deadline, steps).await {
            Ok(outcome) => outcome,
            Err(_) if committing => (Err(Fault::CommitUnknown.into()), false),
            Err(_) => (Err(Fault::Timeout.into()), false),
        };
        if ended {
            session.give_back(&self.inner.warm);
        } else {
            drop(session);
        }
        self.inner.meters.hold.took(held.elapsed());
        self.tell_waiters(result.is_ok());
        result
    }

    fn hints(&self) -> Hints {
        Hints { workers: self.inner.workers.get().and_then(Weak::upgrade), ..Hints::default() }
    }

    fn tell_waiters(&self, committed: bool) {
        let told = HINTS.try_with(|h| {
            let (outbox, work, handed) = (h.outbox.replace(false), h.work.replace(false), h.handed.take());
            let counted = h.counted.take();
            if !committed {
                return; // an item whose commit was not answered runs when its lease ends
            }
            for (counter, n) in counted {
                counter.inc_by(n);
            }
            if outbox {
                crate::plant::crash_point("C-03");
                self.inner.appended.notify_one();
            }
            if work {
                self.inner.enqueued.notify_one();
            }
            for (item, place) in handed {
                if let Some(workers) = &h.workers {
                    workers.start(self, item, place);
                }
            }
        });
        told.ok();
    }
}

/// How far a unit of work reaches.
#[derive(Clone, Copy)]
enum Span {
    /// From BEGIN to COMMIT.
    Transaction,
    /// One statement.
    Statement,
}

impl Span {
    fn operation(self) -> &'static str {
        match self {
            Span::Transaction => "transaction",
            Span::Statement => "statement",
        }
    }
}

/// Notes in the trace how it ended. Of the caller's own span the fields are not known, so that nothing happens to it.
fn mark(span: &tracing::Span, outcome: &'static str) {
    span.record("mercato.outcome", outcome);
    if matches!(outcome, "timeout" | "unknown" | "saturated" | "error") && span.has_field("mercato.outcome") {
        span.record("otel.status_code", "ERROR");
    }
}

/// Whether PostgreSQL itself said what went wrong, so that the session goes on.
fn told(fault: &Fault) -> bool {
    matches!(fault, Fault::Db(sqlx::Error::Database(_)) | Fault::Conflict(_))
}

/// Runs the one statement. What PostgreSQL did not answer may have been applied.
async fn single<T, E, F>(connection: &mut PgConnection, f: &F) -> (Result<T, E>, bool)
where
    E: ServiceError,
    F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>>,
{
    match f(connection).await {
        Ok(value) => (Ok(value), true),
        Err(error) if error.fault().is_some_and(told) => (Err(error), true),
        Err(_) => (Err(Fault::CommitUnknown.into()), false),
    }
}

/// Runs the statements; the flag in the answer says whether the transaction is known to have ended, so the connection is clean.
async fn transaction<T, E, F>(connection: &mut PgConnection, f: &F, committing: &mut bool) -> (Result<T, E>, bool)
where
    E: ServiceError,
    F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<T, E>>,
{
    if let Err(error) = connection.execute("begin").await {
        return (Err(Fault::from(error).into()), false);
    }
    match f(&mut *connection).await {
        Ok(value) => {
            *committing = true;
            // COMMIT of a transaction in which a statement failed is answered like a success though it rolls back. The leading
            // statement turns an error that `f` swallowed into an error here.
            match connection.execute("select 1; commit").await {
                Ok(_) => (Ok(value), true),
                Err(error) => (Err(commit_fault(error).into()), false),
            }
        }
        Err(error) => {
            let ended = connection.execute("rollback").await.is_ok();
            (Err(error), ended)
        }
    }
}

/// A database error on COMMIT is definite only where the server says that it rolled back; everything else may have been applied.
fn commit_fault(error: sqlx::Error) -> Fault {
    let state = error.as_database_error().and_then(|e| e.code()).map(|c| c.into_owned()).unwrap_or_default();
    match state.as_str() {
        "25P02" => Fault::Internal("a statement failed and the unit of work went on".into()),
        "40001" | "40P01" => Fault::Conflict(error),
        state if state.starts_with("23") => Fault::Db(error),
        _ => Fault::CommitUnknown,
    }
}

fn outcome<T, E: ServiceError>(result: &Result<T, E>) -> &'static str {
    match result.as_ref().map_err(ServiceError::fault) {
        Ok(_) => "committed",
        Err(None) => "refused",
        Err(Some(Fault::Conflict(_))) => "conflict",
        Err(Some(Fault::Timeout)) => "timeout",
        Err(Some(Fault::CommitUnknown)) => "unknown",
        Err(Some(Fault::Saturated)) => "saturated",
        Err(Some(_)) => "error",
    }
}
