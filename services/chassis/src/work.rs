//! Durable steps: every call to a provider or a peer, and every timer, is a row that is done again until it is finished.
//!
//! An item is leased to one worker at a time on the database's clock. A worker that comes back late finds its lease gone when it
//! finishes, and its transaction is rolled back.

mod lanes;
mod run;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::Fault;
use crate::pg::{Db, hand_over, hint_work, workers};

pub(crate) use lanes::{Lanes, Place};
pub use run::spawn;

/// One leased step.
#[derive(Clone, Debug)]
pub struct Item {
    /// What is to be done.
    pub kind: String,
    /// To what.
    pub subject: Uuid,
    /// 1 for the first run.
    pub attempt: i32,
    /// When it was first asked for.
    pub first_at: OffsetDateTime,
    traceparent: Option<String>,
    epoch: i64,
    requested: i64,
    /// A moment before the lease began, by our own clock.
    leased: Instant,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// [`finish`] was called in the worker's own unit of work, or somebody else has the item by now.
    Done,
    /// Run it again.
    Again {
        /// After this time.
        after: Duration,
        /// Why, for people to read; no secrets, no personal data.
        error: String,
    },
}

/// Does steps of some kinds.
#[async_trait]
pub trait Worker: Send + Sync + 'static {
    /// The kinds it does. No two workers of a role may share one.
    fn kinds(&self) -> &'static [&'static str];
    /// One run. It is cut off when the lease ends, and may be repeated at any time: calls it makes must carry derived keys.
    async fn run(&self, item: &Item) -> Verdict;
    /// How long a run may take before another worker may start it.
    fn lease(&self) -> Duration {
        Duration::from_secs(30)
    }
    /// Runs at the same time.
    fn parallel(&self) -> usize {
        16
    }
}

/// Nudges the workers of a role. Units of work that enqueue do it by themselves.
#[derive(Clone, Debug)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// For the workers of this database.
    pub fn of(db: &Db) -> Wake {
        Wake(db.enqueued())
    }

    /// For a role without a database: nobody listens.
    pub fn nobody() -> Wake {
        Wake(Arc::new(Notify::new()))
    }

    /// Look for due items now instead of at the next poll.
    pub fn now(&self) {
        self.0.notify_one();
    }
}

/// Asks for a step after `delay`. There is one item a (kind, subject): an existing one becomes due at the earlier time, and one that is
/// running runs once more afterwards.
pub async fn enqueue(tx: &mut PgConnection, kind: &'static str, subject: Uuid, delay: Duration) -> Result<(), Fault> {
    if delay.is_zero() {
        return enqueue_all(tx, &[Step::new(kind, subject)]).await;
    }
    let insert = "insert into work as w (kind, subject, due_at, traceparent)
                  values ($1, $2, clock_timestamp() + make_interval(secs => $3), $4)
                  on conflict (kind, subject) do update set due_at = least(w.due_at, excluded.due_at), requested = w.requested + 1";
    let traceparent = crate::telemetry::traceparent();
    sqlx::query(insert).bind(kind).bind(subject).bind(delay.as_secs_f64()).bind(traceparent).execute(tx).await?;
    hint_work();
    Ok(())
}

/// A step to be asked for, in the trace in which it is made. Steps are equal when they do the same to the same, whatever their trace.
#[derive(Clone, Debug)]
pub struct Step {
    kind: &'static str,
    subject: Uuid,
    traceparent: Option<String>,
}

impl Step {
    /// Due at once.
    pub fn new(kind: &'static str, subject: Uuid) -> Step {
        Step { kind, subject, traceparent: crate::telemetry::traceparent() }
    }

    /// Whether it does this to that.
    pub fn is(&self, kind: &str, subject: Uuid) -> bool {
        self.kind == kind && self.subject == subject
    }

    fn key(&self) -> (&'static str, Uuid) {
        (self.kind, self.subject)
    }
}

impl PartialEq for Step {
    fn eq(&self, other: &Step) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Step {}

impl Ord for Step {
    fn cmp(&self, other: &Step) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Step) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Asks for several steps in one statement, each due at once, see [`enqueue`]. No two of them may be equal.
///
/// A step for which a worker of this process has a free place is leased to it with the same statement, and begins right after the commit
/// without being looked for.
pub async fn enqueue_all(tx: &mut PgConnection, steps: &[Step]) -> Result<(), Fault> {
    if steps.is_empty() {
        return Ok(());
    }
    let (lanes, leased) = (workers(), Instant::now());
    let place = |kind: &str| lanes.as_ref().and_then(|lanes| lanes.place(kind));
    let taken: Vec<Option<Place>> = steps.iter().map(|step| place(step.kind)).collect();
    let leases: Vec<Option<f64>> = taken.iter().map(|place| place.as_ref().map(|place| place.lease.as_secs_f64())).collect();
    let mut places: HashMap<(&str, Uuid), (Place, &Step)> =
        steps.iter().zip(taken).filter_map(|(step, place)| Some((step.key(), (place?, step)))).collect();
    let insert = "insert into work as w (kind, subject, due_at, lease_until, attempt, epoch, traceparent)
                  select s.kind, s.subject, case when s.lease is null then clock_timestamp() else '9999-01-01' end,
                         clock_timestamp() + make_interval(secs => s.lease), (s.lease is not null)::int, (s.lease is not null)::int,
                         s.traceparent
                  from unnest($1::text[], $2::uuid[], $3::float8[], $4::text[]) as s (kind, subject, lease, traceparent) order by 1, 2
                  on conflict (kind, subject) do update set due_at = least(w.due_at, clock_timestamp()), requested = w.requested + 1
                  returning kind, subject, first_at, requested";
    let (kinds, subjects): (Vec<&str>, Vec<Uuid>) = steps.iter().map(Step::key).unzip();
    let traces: Vec<Option<&str>> = steps.iter().map(|step| step.traceparent.as_deref()).collect();
    let rows: Vec<(String, Uuid, OffsetDateTime, i64)> =
        sqlx::query_as(insert).bind(kinds).bind(subjects).bind(leases).bind(traces).fetch_all(tx).await?;
    for (kind, subject, first_at, requested) in rows {
        let asked = steps.iter().map(|step| step.kind).find(|asked| *asked == kind);
        match asked.and_then(|asked| places.remove(&(asked, subject))) {
            // Only a new row counts its first request.
            Some((place, step)) if requested == 1 => {
                let traceparent = step.traceparent.clone();
                hand_over(Item { kind, subject, attempt: 1, first_at, traceparent, epoch: 1, requested, leased }, place);
            }
            _ => hint_work(),
        }
    }
    Ok(())
}

/// Ends several items in the transaction of their effects; for each whether its lease was still ours. An item that was asked for again
/// in the meantime is run again.
pub async fn finish_all(tx: &mut PgConnection, items: &[&Item]) -> Result<Vec<bool>, Fault> {
    let (mut kinds, mut subjects, mut epochs, mut requested) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for item in items {
        kinds.push(item.kind.as_str());
        subjects.push(item.subject);
        epochs.push(item.epoch);
        requested.push(item.requested);
    }
    let end = "with mine as (
                   select w.kind, w.subject, i.nth, w.requested = i.requested as done
                   from unnest($1::text[], $2::uuid[], $3::bigint[], $4::bigint[]) with ordinality as i (kind, subject, epoch, requested, nth)
                   join work w on w.kind = i.kind and w.subject = i.subject and w.epoch = i.epoch and w.lease_until is not null
                   order by w.kind, w.subject for update of w),
               ended as (delete from work w using mine where mine.done and w.kind = mine.kind and w.subject = mine.subject),
               again as (update work w set lease_until = null, attempt = 0, first_at = clock_timestamp(), last_error = null
                         from mine where not mine.done and w.kind = mine.kind and w.subject = mine.subject)
               select nth, done from mine";
    let rows: Vec<(i64, bool)> = sqlx::query_as(end).bind(kinds).bind(subjects).bind(epochs).bind(requested).fetch_all(tx).await?;
    let mut held = vec![false; items.len()];
    for (nth, done) in rows {
        if let Some(slot) = usize::try_from(nth - 1).ok().and_then(|i| held.get_mut(i)) {
            *slot = true;
        }
        if !done {
            hint_work();
        }
    }
    Ok(held)
}

/// Ends the item in the transaction of its effect. False when the lease is no longer ours: the caller must roll back, with [`lost`].
pub async fn finish(tx: &mut PgConnection, item: &Item) -> Result<bool, Fault> {
    let lock = "select requested from work where kind = $1 and subject = $2 and epoch = $3 and lease_until is not null for update";
    let held: Option<i64> = sqlx::query_scalar(lock).bind(&item.kind).bind(item.subject).bind(item.epoch).fetch_optional(&mut *tx).await?;
    let end = match held {
        None => return Ok(false),
        Some(requested) if requested == item.requested => "delete from work where kind = $1 and subject = $2",
        // Asked for again in the meantime: `due_at` is already that of the new request.
        Some(_) => {
            hint_work();
            "update work set lease_until = null, attempt = 0, first_at = clock_timestamp(), last_error = null
             where kind = $1 and subject = $2"
        }
    };
    sqlx::query(end).bind(&item.kind).bind(item.subject).execute(tx).await?;
    Ok(true)
}

/// Who is unavailable when a lease was lost.
pub(crate) const LOST: &str = "work";

/// The error to roll back with when [`finish`] said false. It is not a conflict to be retried.
pub fn lost() -> Fault {
    Fault::Unavailable { peer: LOST.into(), detail: "the lease of the item was lost".into() }
}

/// Takes an item back, running or not; a running worker cannot finish it any more.
pub async fn cancel(tx: &mut PgConnection, kind: &str, subject: Uuid) -> Result<(), Fault> {
    sqlx::query("delete from work where kind = $1 and subject = $2").bind(kind).bind(subject).execute(tx).await?;
    Ok(())
}

/// An item that waits.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Due {
    /// What is to be done.
    pub kind: String,
    /// To what.
    pub subject: Uuid,
    /// Runs so far.
    pub attempt: i32,
    /// When it runs next; for a running one, when its lease ends.
    pub due_at: OffsetDateTime,
    /// When it was first asked for.
    pub first_at: OffsetDateTime,
    /// Why the last run did not finish it.
    pub last_error: Option<String>,
}

/// Items of these kinds (all kinds when empty) first asked for longer ago than this, the oldest first.
pub async fn overdue(pool: &PgPool, kinds: &[&str], older_than: Duration, limit: i64) -> Result<Vec<Due>, Fault> {
    let select = "select kind, subject, attempt, coalesce(lease_until, due_at) as due_at, first_at, last_error from work
                  where (cardinality($1::text[]) = 0 or kind = any($1)) and first_at < clock_timestamp() - make_interval(secs => $2)
                  order by first_at limit $3";
    Ok(sqlx::query_as(select).bind(kinds).bind(older_than.as_secs_f64()).bind(limit).fetch_all(pool).await?)
}

/// Makes every item of a subject that is not running due now; returns how many.
pub async fn due_now(tx: &mut PgConnection, subject: Uuid) -> Result<u64, Fault> {
    let update = "update work set due_at = clock_timestamp() where subject = $1 and lease_until is null";
    let rows = sqlx::query(update).bind(subject).execute(tx).await?.rows_affected();
    hint_work();
    Ok(rows)
}
