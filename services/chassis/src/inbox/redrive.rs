//! Tries parked events again, each aggregate in its order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sqlx::{PgConnection, Row as _};
use tokio::time::Instant;
use tracing::Instrument as _;
use uuid::Uuid;

use super::apply::{BUDGET, advance, describe, is_infrastructure};
use super::park::bury;
use super::{Consumer, Received};
use crate::backoff;
use crate::error::Fault;
use crate::metrics;
use crate::pg::Db;
use crate::tasks::Tasks;

/// How often parked events are looked for.
const POLL: Duration = Duration::from_secs(1);
/// Attempts after which an event is given up.
const ATTEMPTS: i32 = 12;

/// Redrives for all consumers of one database.
pub(super) struct Redriver {
    pub db: Db,
    pub consumers: Arc<Vec<Consumer>>,
    pub tasks: Tasks,
}

/// The first parked event of an aggregate and what became of it.
enum Step {
    /// Nothing to do now.
    Rest,
    /// Applied, or not needed; the next may follow at once.
    Applied(Vec<Received>),
}

impl Redriver {
    pub async fn run(self) {
        let mut measured: Option<Instant> = None;
        while self.tasks.pause(POLL).await {
            if let Err(error) = self.round().await {
                tracing::warn!(role = self.db.role(), %error, "parked events not redriven");
            }
            if measured.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
                measured = Some(Instant::now());
                if let Err(error) = self.measure().await {
                    tracing::debug!(role = self.db.role(), %error, "parked events not measured");
                }
            }
        }
    }

    async fn round(&self) -> Result<(), Fault> {
        let names: Vec<&str> = self.consumers.iter().map(|c| c.name).collect();
        let select = "select consumer, topic, aggregate from (
                          select distinct on (consumer, topic, aggregate) consumer, topic, aggregate, state, next_at from parked
                          where consumer = any($1) order by consumer, topic, aggregate, sequence) head
                      where state = 'WAITING' and next_at <= clock_timestamp() limit 100";
        let heads: Vec<(String, String, Uuid)> = sqlx::query_as(select).bind(names).fetch_all(self.db.read()).await?;
        for (name, topic, aggregate) in heads {
            let Some(consumer) = self.consumers.iter().find(|c| c.name == name) else { continue };
            let key = Arc::new((consumer.clone(), topic, aggregate));
            while !self.tasks.token().is_cancelled() {
                match self.step(key.clone()).await {
                    Ok(Step::Rest) => break,
                    Ok(Step::Applied(events)) => {
                        metrics::INBOX_EVENTS.one([consumer.name, "redriven"]);
                        consumer.handler.committed(&events);
                    }
                    Err(fault) if is_infrastructure(&fault) => return Err(fault),
                    Err(fault) => {
                        self.failed(key.clone(), &fault).await?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    async fn step(&self, key: Arc<(Consumer, String, Uuid)>) -> Result<Step, Fault> {
        self.db
            .uow_within(BUDGET, move |tx| {
                let key = key.clone();
                Box::pin(async move { step(tx, &key.0, &key.1, key.2).await })
            })
            .await
    }

    /// Counts a failed attempt of the first event of the aggregate; after the last one it is given up.
    async fn failed(&self, key: Arc<(Consumer, String, Uuid)>, fault: &Fault) -> Result<(), Fault> {
        let error = Arc::new(describe(fault));
        let dead = self.db.uow_within(BUDGET, move |tx| {
            let (key, error) = (key.clone(), error.clone());
            Box::pin(async move { failed(tx, &key.0, &key.1, key.2, &error).await })
        });
        if let Some(event) = dead.await? {
            tracing::error!(kind = event.kind, event = %event.event_id, aggregate = %event.aggregate, "event given up, see table dead_letter");
        }
        Ok(())
    }

    async fn measure(&self) -> Result<(), Fault> {
        let select = "select count(*), count(distinct (consumer, topic, aggregate)),
                             (select count(*) from dead_letter where closed_at is null)
                      from parked";
        let (parked, keys, dead): (i64, i64, i64) = sqlx::query_as(select).fetch_one(self.db.read()).await?;
        metrics::INBOX_PARKED.set([self.db.role()], parked as f64);
        metrics::INBOX_PARKED_KEYS.set([self.db.role()], keys as f64);
        metrics::INBOX_DEAD.set([self.db.role()], dead as f64);
        Ok(())
    }
}

/// The first parked event of an aggregate when it is due, locked; with its attempts.
async fn head(tx: &mut PgConnection, consumer: &str, topic: &str, aggregate: Uuid) -> Result<Option<(Received, i32)>, Fault> {
    let select = "select sequence, event_id, kind, at, traceparent, payload, source_partition, source_offset, attempts,
                         state = 'WAITING' and next_at <= clock_timestamp() as due
                  from parked where consumer = $1 and topic = $2 and aggregate = $3 order by sequence limit 1 for update skip locked";
    let Some(row) = sqlx::query(select).bind(consumer).bind(topic).bind(aggregate).fetch_optional(tx).await? else { return Ok(None) };
    if !row.try_get::<bool, _>("due")? {
        return Ok(None);
    }
    let event = Received {
        event_id: row.try_get("event_id")?,
        topic: topic.to_owned(),
        kind: row.try_get("kind")?,
        aggregate,
        sequence: row.try_get("sequence")?,
        at: row.try_get("at")?,
        payload: Bytes::from(row.try_get::<Vec<u8>, _>("payload")?),
        traceparent: row.try_get("traceparent")?,
        span: None,
        partition: row.try_get("source_partition")?,
        offset: row.try_get("source_offset")?,
    };
    Ok(Some((event, row.try_get("attempts")?)))
}

async fn step(tx: &mut PgConnection, consumer: &Consumer, topic: &str, aggregate: Uuid) -> Result<Step, Fault> {
    let Some((event, _)) = head(&mut *tx, consumer.name, topic, aggregate).await? else { return Ok(Step::Rest) };
    let last = "select last_seq from inbox_sequence where consumer = $1 and topic = $2 and aggregate = $3";
    let last: Option<i64> = sqlx::query_scalar(last).bind(consumer.name).bind(topic).bind(aggregate).fetch_optional(&mut *tx).await?;
    let alone = consumer.handler.alone(&event.kind);
    let last = if alone { event.sequence - 1 } else { last.unwrap_or(0) };
    if event.sequence > last + 1 {
        return Err(Fault::Internal(format!("sequence {} after {last}", event.sequence)));
    }
    let needed = event.sequence == last + 1;
    let wanted = needed && consumer.handler.wants(&event.kind);
    if wanted {
        let event = event.clone().traced(consumer.name);
        consumer.handler.handle_all(&mut *tx, &[&event]).instrument(event.span()).await?;
    }
    if needed && !alone {
        advance(&mut *tx, consumer.name, vec![(last, event.sequence, (topic.to_owned(), aggregate))]).await?;
    }
    let delete = "delete from parked where consumer = $1 and topic = $2 and aggregate = $3 and event_id = $4";
    sqlx::query(delete).bind(consumer.name).bind(topic).bind(aggregate).bind(event.event_id).execute(&mut *tx).await?;
    let next = "update parked set next_at = clock_timestamp()
                where consumer = $1 and topic = $2 and aggregate = $3 and state = 'WAITING' and sequence = $4";
    sqlx::query(next).bind(consumer.name).bind(topic).bind(aggregate).bind(event.sequence + 1).execute(tx).await?;
    Ok(Step::Applied(wanted.then_some(event).into_iter().collect()))
}

/// Returns the event when it has been given up.
async fn failed(tx: &mut PgConnection, consumer: &Consumer, topic: &str, aggregate: Uuid, error: &str) -> Result<Option<Received>, Fault> {
    let Some((event, attempts)) = head(&mut *tx, consumer.name, topic, aggregate).await? else { return Ok(None) };
    let attempts = attempts + 1;
    if attempts >= ATTEMPTS {
        bury(tx, consumer.name, &event, error, attempts).await?;
        return Ok(Some(event));
    }
    let wait = backoff::delay(attempts as u32, Duration::from_secs(1), Duration::from_secs(600));
    let update = "update parked set attempts = $5, error = $6, next_at = clock_timestamp() + make_interval(secs => $7)
                  where consumer = $1 and topic = $2 and aggregate = $3 and event_id = $4";
    sqlx::query(update)
        .bind(consumer.name)
        .bind(topic)
        .bind(aggregate)
        .bind(event.event_id)
        .bind(attempts)
        .bind(error)
        .bind(wait.as_secs_f64())
        .execute(tx)
        .await?;
    Ok(None)
}
