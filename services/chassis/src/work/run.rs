//! Claims due items and runs them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sqlx::{FromRow as _, Row as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument as _;

use super::{Item, Verdict, Worker};
use crate::error::Fault;
use crate::pg::Db;
use crate::tasks::Tasks;

/// The longest a due item waits to be seen when nobody nudged.
const POLL: Duration = Duration::from_millis(200);
/// Between two rounds under load: what becomes due in that time is claimed, and ended, together. A step that comes alone waits for nothing.
const PACE: Duration = Duration::from_millis(10);
/// The wait after a run that panicked or was cut off.
const BROKEN: Duration = Duration::from_secs(5);

impl<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> for Item {
    fn from_row(row: &'r sqlx::postgres::PgRow) -> Result<Self, sqlx::Error> {
        Ok(Item {
            kind: row.try_get("kind")?,
            subject: row.try_get("subject")?,
            attempt: row.try_get("attempt")?,
            first_at: row.try_get("first_at")?,
            epoch: row.try_get("epoch")?,
            requested: row.try_get("requested")?,
        })
    }
}

/// Starts the workers of one database.
pub fn spawn(db: &Db, workers: Vec<Arc<dyn Worker>>, tasks: &Tasks) {
    if workers.is_empty() {
        return;
    }
    let lanes = workers.into_iter().map(|worker| Lane { free: Arc::new(Semaphore::new(worker.parallel())), worker }).collect();
    let dispatcher = Dispatcher { db: db.clone(), lanes, tasks: tasks.clone() };
    tasks.spawn("work", dispatcher.run());
}

struct Lane {
    worker: Arc<dyn Worker>,
    free: Arc<Semaphore>,
}

struct Dispatcher {
    db: Db,
    lanes: Vec<Lane>,
    tasks: Tasks,
}

impl Dispatcher {
    async fn run(self) {
        let (hint, token) = (self.db.enqueued(), self.tasks.token());
        let mut nudged = true;
        while !token.is_cancelled() {
            let started = match self.round(nudged).await {
                Ok(started) => started,
                Err(error) => {
                    tracing::warn!(role = self.db.role(), %error, "work not claimed");
                    0
                }
            };
            nudged = started > 0;
            if started == 0 {
                tokio::select! {
                    () = token.cancelled() => {}
                    () = hint.notified() => nudged = true,
                    () = tokio::time::sleep(POLL) => {}
                }
            } else {
                self.tasks.pause(PACE).await;
            }
        }
    }

    /// Starts what is due and fits; returns how many items. Without a nudge a cheap look comes first.
    async fn round(&self, nudged: bool) -> Result<usize, Fault> {
        let (mut kinds, mut limits, mut leases) = (Vec::new(), Vec::new(), Vec::new());
        let mut held: Vec<Vec<OwnedSemaphorePermit>> = Vec::new();
        for lane in &self.lanes {
            let of_lane = lane.worker.kinds();
            let free = lane.free.available_permits();
            // Permits are taken before the claim, a share for each kind, so that no leased item waits for its turn.
            let share = free / of_lane.len().max(1);
            let mut permits = Vec::new();
            for (nth, kind) in of_lane.iter().enumerate() {
                let share = if share == 0 { usize::from(nth < free) } else { share };
                let taken = (0..share).map_while(|_| lane.free.clone().try_acquire_owned().ok()).collect::<Vec<_>>();
                if !taken.is_empty() {
                    kinds.push(*kind);
                    limits.push(taken.len() as i64);
                    leases.push(lane.worker.lease().as_secs_f64());
                    permits.extend(taken);
                }
            }
            held.push(permits);
        }
        if kinds.is_empty() || !(nudged || self.anything_due(&kinds).await?) {
            return Ok(0);
        }
        let items = self.claim(kinds, limits, leases).await?;
        let count = items.len();
        for item in items {
            let lane = self.lanes.iter().zip(&mut held).find(|(lane, _)| lane.worker.kinds().contains(&item.kind.as_str()));
            if let Some((lane, permits)) = lane {
                self.start(lane, item, permits.pop());
            }
        }
        Ok(count)
    }

    async fn anything_due(&self, kinds: &[&str]) -> Result<bool, Fault> {
        let select = "select exists (select from work where kind = any($1) and coalesce(lease_until, due_at) <= clock_timestamp())";
        Ok(sqlx::query_scalar(select).bind(kinds).fetch_one(self.db.read()).await?)
    }

    async fn claim(&self, kinds: Vec<&'static str>, limits: Vec<i64>, leases: Vec<f64>) -> Result<Vec<Item>, Fault> {
        // A leased item is due again when its lease ends; what `due_at` says from here on is when somebody asks for it meanwhile.
        let claim = "with due as (
                         select l.lease, d.kind, d.subject
                         from unnest($1::text[], $2::bigint[], $3::float8[]) as l (kind, most, lease)
                         cross join lateral (
                             select d.kind, d.subject from work d
                             where d.kind = l.kind and coalesce(d.lease_until, d.due_at) <= clock_timestamp()
                             order by coalesce(d.lease_until, d.due_at) limit l.most for update skip locked) d)
                     update work w
                     set lease_until = clock_timestamp() + make_interval(secs => due.lease), due_at = '9999-01-01',
                         attempt = w.attempt + 1, epoch = w.epoch + 1
                     from due where w.kind = due.kind and w.subject = due.subject
                     returning w.kind, w.subject, w.attempt, w.first_at, w.epoch, w.requested";
        let bound = Arc::new((kinds, limits, leases));
        self.db
            .uow_within(Duration::from_secs(2), move |tx| {
                let bound = bound.clone();
                Box::pin(async move {
                    let rows = sqlx::query(claim).bind(&bound.0).bind(&bound.1).bind(&bound.2).fetch_all(tx).await?;
                    Ok::<_, Fault>(rows.iter().map(Item::from_row).collect::<Result<_, _>>()?)
                })
            })
            .await
    }

    fn start(&self, lane: &Lane, item: Item, permit: Option<OwnedSemaphorePermit>) {
        let (db, hint) = (self.db.clone(), self.db.enqueued());
        let (worker, free) = (lane.worker.clone(), lane.free.clone());
        let span = tracing::info_span!("work", kind = item.kind, subject = %item.subject, attempt = item.attempt);
        let run = async move {
            let (verdict, known) = verdict(&*worker, &item).await;
            let label = if verdict == Verdict::Done { "done" } else { "again" };
            metrics::counter!("work_runs_total", "kind" => item.kind.clone(), "verdict" => label).increment(1);
            if let Verdict::Again { after, error } = verdict {
                if known {
                    tracing::debug!(error, ?after, "step runs again");
                } else {
                    tracing::error!(error, ?after, "step broke off");
                }
                if let Err(fault) = postpone(&db, &item, after, error).await {
                    tracing::warn!(%fault, "item not postponed, it runs again when its lease ends");
                }
            }
            let full = free.available_permits() == 0;
            drop(permit);
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
    match tokio::time::timeout(worker.lease(), AssertUnwindSafe(worker.run(item)).catch_unwind()).await {
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
