//! The relay: claims shards, reads their rows in order, sends them, and deletes what the broker has acknowledged.
//!
//! There is no cursor. A writer holds its aggregate's row lock when it appends, so if a row is visible, every earlier row of the same
//! aggregate was committed before it, and reading the lowest ids first can neither skip nor reorder.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::Row as _;
use tokio::time::Instant;
use uuid::Uuid;

use super::send::{Outcome, Row, Sender};
use crate::error::Fault;
use crate::kafka::KafkaSettings;
use crate::metrics;
use crate::pg::Db;
use crate::tasks::Tasks;

/// How long a claim on shards lasts on the database's clock.
const LEASE: Duration = Duration::from_secs(5);
/// How often it is renewed, in one statement for all shards.
const RENEW: Duration = Duration::from_millis(1500);
/// How often a process without shards looks for free ones.
const CLAIM: Duration = Duration::from_millis(500);
/// The longest an event waits to be seen when no hint came.
const POLL: Duration = Duration::from_millis(200);
/// Between two rounds under load: what comes in that time is sent, deleted and consumed together. An event that comes alone waits for
/// nothing; the goal for all is 50 ms from commit to acknowledgement.
const PACE: Duration = Duration::from_millis(25);
/// Rows read at once.
const BATCH: i64 = 500;
/// Tries after which an event the broker refuses is given up.
const TRIES: i16 = 5;
/// How long the relay waits for the broker once the process stops.
const GRACE: Duration = Duration::from_secs(5);

/// Starts the relay of one database. One process sends a shard's events at a time; others stand by.
pub fn spawn(db: &Db, kafka: &KafkaSettings, tasks: &Tasks) -> Result<(), Fault> {
    let owner = Uuid::now_v7();
    let leases = Arc::new(Mutex::new(Leases::default()));
    let keeper = Keeper { db: db.clone(), owner, leases: leases.clone(), tasks: tasks.clone() };
    let relay = Relay {
        db: db.clone(),
        owner,
        leases,
        tasks: tasks.clone(),
        sender: Sender::new(kafka.clone(), db.role())?,
        blocked: HashMap::new(),
    };
    tasks.spawn("outbox-lease", keeper.run());
    tasks.spawn("outbox-relay", relay.run());
    Ok(())
}

/// The shards this process may send, and until when it may believe so.
#[derive(Clone, Default)]
struct Leases {
    shards: Vec<i16>,
    epochs: Vec<i64>,
    until: Option<Instant>,
}

impl Leases {
    fn valid(&self) -> bool {
        !self.shards.is_empty() && self.until.is_some_and(|until| Instant::now() < until)
    }
}

/// Keeps the leases alive while the relay waits for the broker.
struct Keeper {
    db: Db,
    owner: Uuid,
    leases: Arc<Mutex<Leases>>,
    tasks: Tasks,
}

impl Keeper {
    async fn run(self) {
        let mut measured: Option<Instant> = None;
        loop {
            let pause = match self.renew().await {
                Ok(leases) => {
                    let pause = if leases.shards.is_empty() { CLAIM } else { RENEW };
                    *self.leases.lock().expect("no holder of this lock panics") = leases;
                    pause
                }
                Err(error) => {
                    tracing::warn!(role = self.db.role(), %error, "relay leases not renewed");
                    CLAIM
                }
            };
            if measured.is_none_or(|at| at.elapsed() > Duration::from_secs(5)) {
                measured = Some(Instant::now());
                if let Err(error) = self.measure().await {
                    tracing::debug!(role = self.db.role(), %error, "outbox not measured");
                }
            }
            if !self.tasks.pause(pause).await {
                return;
            }
        }
    }

    async fn renew(&self) -> Result<Leases, Fault> {
        let (owner, asked) = (self.owner, Instant::now());
        let claim = "update relay_lease
                     set epoch = case when owner = $1 and expires_at > clock_timestamp() then epoch else epoch + 1 end,
                         owner = $1, expires_at = clock_timestamp() + make_interval(secs => $2)
                     where owner = $1 or expires_at <= clock_timestamp()
                     returning shard, epoch";
        let rows: Vec<(i16, i64)> = self
            .db
            .statement(Duration::from_secs(2), move |tx| {
                Box::pin(async move { Ok::<_, Fault>(sqlx::query_as(claim).bind(owner).bind(LEASE.as_secs_f64()).fetch_all(tx).await?) })
            })
            .await?;
        let (shards, epochs) = rows.into_iter().unzip();
        // Half a second less than the database grants, so that nothing is begun on a lease that may just have ended.
        Ok(Leases { shards, epochs, until: Some(asked + LEASE - Duration::from_millis(500)) })
    }

    async fn measure(&self) -> Result<(), Fault> {
        let select = "select count(*), coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8,
                             (select count(*) from outbox_dead)
                      from outbox";
        let (rows, oldest, dead): (i64, f64, i64) = sqlx::query_as(select).fetch_one(self.db.read()).await?;
        metrics::OUTBOX_WAITING.set([self.db.role()], rows as f64);
        metrics::OUTBOX_OLDEST.set([self.db.role()], oldest.max(0.0));
        metrics::OUTBOX_DEAD.set([self.db.role()], dead as f64);
        Ok(())
    }
}

/// An aggregate whose first row could not be sent.
struct Blocked {
    until: Instant,
    failures: u32,
}

struct Relay {
    db: Db,
    owner: Uuid,
    leases: Arc<Mutex<Leases>>,
    tasks: Tasks,
    sender: Sender,
    blocked: HashMap<Uuid, Blocked>,
}

impl Relay {
    async fn run(mut self) {
        let hint = self.db.appended();
        let token = self.tasks.token();
        while !token.is_cancelled() {
            let sent = match self.round().await {
                Ok(sent) => sent,
                Err(error) => {
                    tracing::warn!(role = self.db.role(), %error, "outbox not relayed");
                    0
                }
            };
            if sent == 0 {
                self.sender.poll();
                tokio::select! {
                    () = token.cancelled() => {}
                    () = hint.notified() => {}
                    () = tokio::time::sleep(POLL) => {}
                }
            } else if sent < BATCH as usize {
                self.tasks.pause(PACE).await;
            }
        }
        let (db, owner) = (self.db.clone(), self.owner);
        self.sender.close(GRACE).await;
        if let Err(error) = release(&db, owner).await {
            tracing::info!(role = db.role(), %error, "relay leases left to run out");
        }
    }

    /// Sends what is there; returns how many events were acknowledged.
    async fn round(&mut self) -> Result<usize, Fault> {
        let leases = self.leases.lock().expect("no holder of this lock panics").clone();
        if !leases.valid() {
            return Ok(0);
        }
        let rows = self.read(&leases).await?;
        if rows.is_empty() {
            return Ok(0);
        }
        crate::plant::crash_point("C-04");
        let token = self.tasks.token();
        let outcomes = tokio::select! {
            outcomes = self.sender.send(&rows) => outcomes?,
            // What was not acknowledged by then is sent again by whoever comes next.
            () = async { token.cancelled().await; tokio::time::sleep(GRACE).await } => return Ok(0),
        };
        let mut acknowledged = Vec::with_capacity(rows.len());
        for (row, outcome) in rows.iter().zip(outcomes) {
            match outcome {
                Outcome::Acknowledged => {
                    self.blocked.remove(&row.aggregate);
                    acknowledged.push(row.id);
                }
                Outcome::Skipped => {}
                Outcome::Failed(error) => self.block(row, &error),
                Outcome::Refused(error) => {
                    self.block(row, &error);
                    bury(&self.db, row, error).await?;
                }
            }
        }
        let count = acknowledged.len();
        if count > 0 {
            crate::plant::crash_point("C-05");
            self.delete(&leases, acknowledged).await?;
        }
        Ok(count)
    }

    async fn read(&mut self, leases: &Leases) -> Result<Vec<Row>, Fault> {
        let now = Instant::now();
        let blocked: Vec<Uuid> = self.blocked.iter().filter(|(_, b)| b.until > now).map(|(aggregate, _)| *aggregate).collect();
        let select = "select id, event_id, topic, kind, aggregate, sequence, created_at, traceparent, headers, payload from outbox
                      where shard = any($1) and aggregate <> all($2) order by id limit $3";
        let rows = sqlx::query(select).bind(&leases.shards).bind(blocked).bind(BATCH);
        let rows = self.db.look(|connection| Box::pin(async move { Ok(rows.fetch_all(connection).await?) })).await?;
        let mut rows = rows.iter().map(Row::read).collect::<Result<Vec<_>, _>>()?;
        crate::plant::skip_passed("bug-01", self.db.role(), &mut rows, |row| row.id);
        Ok(rows)
    }

    fn block(&mut self, row: &Row, error: &str) {
        let failures = self.blocked.get(&row.aggregate).map_or(0, |b| b.failures) + 1;
        tracing::warn!(topic = row.topic, aggregate = %row.aggregate, sequence = row.sequence, failures, error, "event not sent");
        metrics::OUTBOX_FAILURES.one([&row.topic]);
        let wait = POLL * 2u32.pow(failures.min(6));
        self.blocked.insert(row.aggregate, Blocked { until: Instant::now() + wait, failures });
    }

    /// Deletes acknowledged rows, as long as their shards are still ours. If it fails they are sent again, which consumers ignore.
    async fn delete(&self, leases: &Leases, ids: Vec<i64>) -> Result<(), Fault> {
        let delete = "delete from outbox o using unnest($1::smallint[], $2::bigint[]) as l (shard, epoch), relay_lease r
                      where o.id = any($3) and o.shard = l.shard and r.shard = l.shard and r.epoch = l.epoch and r.owner = $4";
        let (owner, leases, ids) = (self.owner, Arc::new(leases.clone()), Arc::new(ids));
        self.db
            .statement(Duration::from_secs(5), move |tx| {
                let (leases, ids) = (leases.clone(), ids.clone());
                Box::pin(async move {
                    sqlx::query(delete).bind(&leases.shards).bind(&leases.epochs).bind(&*ids).bind(owner).execute(tx).await?;
                    Ok::<_, Fault>(())
                })
            })
            .await
    }
}

/// Counts a refusal; after the last try the event and all that wait behind it go to a table for a person to look at.
async fn bury(db: &Db, row: &Row, error: String) -> Result<(), Fault> {
    let (id, topic, aggregate, error) = (row.id, Arc::new(row.topic.clone()), row.aggregate, Arc::new(error));
    let dead = db
        .uow_within(Duration::from_secs(5), move |tx| {
            let (topic, error) = (topic.clone(), error.clone());
            Box::pin(async move {
                let count = "update outbox set attempts = attempts + 1 where id = $1 returning attempts";
                let tries: Option<i16> = sqlx::query(count).bind(id).fetch_optional(&mut *tx).await?.map(|r| r.try_get(0)).transpose()?;
                if tries.is_none_or(|tries| tries < TRIES) {
                    return Ok::<_, Fault>(0);
                }
                let bury = "with gone as (
                                delete from outbox where topic = $1 and aggregate = $2
                                returning id, event_id, topic, kind, aggregate, sequence, created_at, traceparent, headers, payload)
                            insert into outbox_dead (id, event_id, topic, kind, aggregate, sequence, created_at, traceparent, headers,
                                                     payload, error)
                            select id, event_id, topic, kind, aggregate, sequence, created_at, traceparent, headers, payload, $3 from gone";
                Ok(sqlx::query(bury).bind(&*topic).bind(aggregate).bind(&*error).execute(tx).await?.rows_affected())
            })
        })
        .await?;
    if dead > 0 {
        tracing::error!(topic = row.topic, aggregate = %row.aggregate, events = dead, "events given up, see table outbox_dead");
    }
    Ok(())
}

async fn release(db: &Db, owner: Uuid) -> Result<(), Fault> {
    db.uow_within(Duration::from_secs(1), move |tx| {
        Box::pin(async move {
            let release = "update relay_lease set owner = null, expires_at = '-infinity' where owner = $1";
            sqlx::query(release).bind(owner).execute(tx).await?;
            Ok(())
        })
    })
    .await
}
