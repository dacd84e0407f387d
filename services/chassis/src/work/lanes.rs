//! The places in which this process does steps, and how a step gets into one of them without a look into the table.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::Instrument as _;

use super::{Item, Verdict, Worker};
use crate::error::Fault;
use crate::metrics;
use crate::pg::Db;
use crate::tasks::Tasks;

/// The wait after a run that panicked or was cut off.
const BROKEN: Duration = Duration::from_secs(5);

/// A worker and its places.
pub(super) struct Lane {
    pub worker: Arc<dyn Worker>,
    pub free: Arc<Semaphore>,
}

/// All workers of one database in this process.
pub(crate) struct Lanes {
    pub(super) all: Vec<Lane>,
    tasks: Tasks,
}

/// A place that was taken for a step of one kind.
pub(crate) struct Place {
    permit: OwnedSemaphorePermit,
    /// How long a run may take.
    pub lease: Duration,
}

impl Place {
    pub(super) fn new(permit: OwnedSemaphorePermit, lease: Duration) -> Place {
        Place { permit, lease }
    }
}

impl Lanes {
    pub(super) fn new(workers: Vec<Arc<dyn Worker>>, tasks: &Tasks) -> Lanes {
        let all = workers.into_iter().map(|worker| Lane { free: Arc::new(Semaphore::new(worker.parallel())), worker }).collect();
        Lanes { all, tasks: tasks.clone() }
    }

    fn lane(&self, kind: &str) -> Option<&Lane> {
        self.all.iter().find(|lane| lane.worker.kinds().contains(&kind))
    }

    /// A free place for a step of this kind; none when all are taken, or when the process is about to stop.
    pub(crate) fn place(&self, kind: &str) -> Option<Place> {
        let lane = self.lane(kind).filter(|_| !self.tasks.token().is_cancelled())?;
        Some(Place::new(lane.free.clone().try_acquire_owned().ok()?, lane.worker.lease()))
    }

    /// Runs an item that is leased to us.
    pub(crate) fn start(&self, db: &Db, item: Item, place: Place) {
        let Some(lane) = self.lane(&item.kind) else { return };
        crate::plant::crash_point("C-12");
        let (db, hint) = (db.clone(), db.enqueued());
        let (worker, free) = (lane.worker.clone(), lane.free.clone());
        let span = tracing::info_span!("work", traceparent = item.traceparent.as_deref(), role = db.role(),
            otel.name = %format_args!("step {}", item.kind), mercato.step = item.kind, mercato.subject = %item.subject,
            mercato.attempt = item.attempt, mercato.verdict = tracing::field::Empty, otel.status_code = tracing::field::Empty);
        let run = async move {
            let began = Instant::now();
            let (verdict, known) = verdict(&*worker, &item).await;
            let label = if verdict == Verdict::Done { "done" } else { "again" };
            tracing::Span::current().record("mercato.verdict", label);
            metrics::WORK_RUNS.one([&item.kind, label]);
            metrics::WORK_DURATION.took([&item.kind], began.elapsed());
            if let Verdict::Again { after, error } = verdict {
                if known {
                    tracing::debug!(error, ?after, "step runs again");
                } else {
                    tracing::Span::current().record("otel.status_code", "ERROR");
                    tracing::error!(error, ?after, "step broke off");
                }
                if let Err(fault) = postpone(&db, &item, after, error).await {
                    tracing::warn!(%fault, "item not postponed, it runs again when its lease ends");
                }
            }
            let full = free.available_permits() == 0;
            drop(place.permit);
            if full {
                // Another due item may have waited for this place.
                hint.notify_one();
            }
        };
        self.tasks.track(run.instrument(span));
    }
}

/// Runs the worker; a panic or a run beyond its lease counts as a failure.
async fn verdict(worker: &dyn Worker, item: &Item) -> (Verdict, bool) {
    let again = |error: &str| Verdict::Again { after: BROKEN, error: error.to_owned() };
    match tokio::time::timeout_at(item.leased + worker.lease(), AssertUnwindSafe(worker.run(item)).catch_unwind()).await {
        Ok(Ok(verdict)) => (verdict, true),
        Ok(Err(_)) => (again("the worker panicked"), false),
        Err(_) => (again("the run took longer than its lease"), false),
    }
}

async fn postpone(db: &Db, item: &Item, after: Duration, error: String) -> Result<(), Fault> {
    let bound = Arc::new((item.clone(), error));
    db.uow_within(Duration::from_secs(5), move |tx| {
        let bound = bound.clone();
        Box::pin(async move {
            let (item, error) = &*bound;
            let update = "update work set lease_until = null, last_error = $5,
                                 due_at = least(due_at, clock_timestamp() + make_interval(secs => $4))
                          where kind = $1 and subject = $2 and epoch = $3";
            let update = sqlx::query(update).bind(&item.kind).bind(item.subject).bind(item.epoch);
            update.bind(after.as_secs_f64()).bind(error).execute(tx).await?;
            Ok(())
        })
    })
    .await
}
