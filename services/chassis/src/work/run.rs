//! Claims due items and runs them.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::time::Instant;

use super::lanes::{Lanes, Place};
use super::{Item, Worker};
use crate::error::Fault;
use crate::pg::Db;
use crate::tasks::Tasks;

/// The longest a due item waits to be seen when nobody nudged.
const POLL: Duration = Duration::from_millis(200);
/// Between two rounds under load: what becomes due in that time is claimed, and ended, together. A step that comes alone waits for nothing.
const PACE: Duration = Duration::from_millis(25);
impl Item {
    fn read(row: &PgRow, leased: Instant) -> Result<Item, sqlx::Error> {
        Ok(Item {
            kind: row.try_get("kind")?,
            subject: row.try_get("subject")?,
            attempt: row.try_get("attempt")?,
            first_at: row.try_get("first_at")?,
            traceparent: row.try_get("traceparent")?,
            epoch: row.try_get("epoch")?,
            requested: row.try_get("requested")?,
            leased,
        })
    }
}

/// Starts the workers of one database.
pub fn spawn(db: &Db, workers: Vec<Arc<dyn Worker>>, tasks: &Tasks) {
    if workers.is_empty() {
        return;
    }
    let lanes = Arc::new(Lanes::new(workers, tasks));
    db.hand_over_to(&lanes);
    let dispatcher = Dispatcher { db: db.clone(), lanes, tasks: tasks.clone() };
    tasks.spawn("work", dispatcher.run());
}

struct Dispatcher {
    db: Db,
    lanes: Arc<Lanes>,
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
        let mut held: Vec<Vec<Place>> = Vec::new();
        for lane in &self.lanes.all {
            let of_lane = lane.worker.kinds();
            let free = lane.free.available_permits();
            // Permits are taken before the claim, a share for each kind, so that no leased item waits for its turn.
            let share = free / of_lane.len().max(1);
            let mut permits = Vec::new();
            for (nth, kind) in of_lane.iter().enumerate() {
                let share = if share == 0 { usize::from(nth < free) } else { share };
                let taken = (0..share).map_while(|_| self.lanes.place(kind)).collect::<Vec<_>>();
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
            let lane = self.lanes.all.iter().zip(&mut held).find(|(lane, _)| lane.worker.kinds().contains(&item.kind.as_str()));
            if let Some(place) = lane.and_then(|(_, places)| places.pop()) {
                self.lanes.start(&self.db, item, place);
            }
        }
        Ok(count)
    }

    async fn anything_due(&self, kinds: &[&'static str]) -> Result<bool, Fault> {
        let select = "select exists (select from work where kind = any($1) and coalesce(lease_until, due_at) <= clock_timestamp())";
        let select = sqlx::query_scalar(select).bind(kinds.to_vec());
        self.db.look(|connection| Box::pin(async move { Ok(select.fetch_one(connection).await?) })).await
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
                     returning w.kind, w.subject, w.attempt, w.first_at, w.traceparent, w.epoch, w.requested";
        let (bound, leased) = (Arc::new((kinds, limits, leases)), Instant::now());
        self.db
            .statement(Duration::from_secs(2), move |tx| {
                let bound = bound.clone();
                Box::pin(async move {
                    let rows = sqlx::query(claim).bind(&bound.0).bind(&bound.1).bind(&bound.2).fetch_all(tx).await?;
                    Ok::<_, Fault>(rows.iter().map(|row| Item::read(row, leased)).collect::<Result<_, _>>()?)
                })
            })
            .await
    }
}
