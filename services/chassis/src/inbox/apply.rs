//! Applies batches of events.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::park::{bury_broken, park};
use super::read::{Broken, Record};
use super::{Handler, Received};
use crate::backoff;
use crate::error::{Fault, ServiceError as _};
use crate::metrics;
use crate::pg::Db;
use crate::plant;
use crate::telemetry;

/// The time one transaction of a consumer may take.
pub(super) const BUDGET: Duration = Duration::from_secs(10);
/// Retries of a batch for a passing fault before its culprit is looked for.
const RETRIES: u32 = 3;
/// The same while the fault looks like one of the database, which nevertheless answers.
const STUBBORN: u32 = 10;

type AggregateKey = (String, Uuid);

/// The last sequence of an aggregate as it was found, 0 for none, and as it is from now on.
pub(super) type Move = (i64, i64, AggregateKey);

/// Applies the events of one consumer.
#[derive(Clone)]
pub(super) struct Applier {
    pub db: Db,
    pub consumer: &'static str,
    pub handler: Arc<dyn Handler>,
}

/// What one transaction did, told once it has committed.
#[derive(Default)]
struct Report {
    applied: Vec<usize>,
    ignored: u64,
    duplicates: u64,
    parked: u64,
    gaps: u64,
}

impl Applier {
    /// Applies, parks or buries every record; false when it was stopped in between.
    pub async fn apply(&self, records: Vec<Record>, stop: &CancellationToken) -> bool {
        let (mut events, mut passed) = (Vec::new(), 0);
        for record in records {
            match record {
                Record::Event(event) if self.handler.alone(&event.kind) && !self.handler.wants(&event.kind) => passed += 1,
                Record::Event(event) if self.handler.wants(&event.kind) => events.push(event.traced(self.consumer)),
                Record::Event(event) => events.push(event),
                Record::Broken(broken) => {
                    if !self.events(std::mem::take(&mut events), stop).await || !self.bury(broken, stop).await {
                        return false;
                    }
                }
            }
        }
        self.count("ignored", passed);
        self.events(events, stop).await
    }

    fn count(&self, effect: &'static str, n: u64) {
        if n > 0 {
            metrics::INBOX_EVENTS.add([self.consumer, effect], n);
        }
    }

    /// Applies a batch; on a fault that does not pass it halves it until the culprit is alone, which is then parked.
    async fn events(&self, events: Vec<Received>, stop: &CancellationToken) -> bool {
        let mut todo = vec![Arc::new(events)];
        let mut tries = 0;
        while let Some(part) = todo.pop() {
            if part.is_empty() {
                continue;
            }
            if stop.is_cancelled() {
                return false;
            }
            let began = Instant::now();
            let span = telemetry::together(self.consumer, part.iter().filter_map(|event| event.span.as_ref()));
            let outcome = self.transaction(part.clone()).instrument(span.clone()).await;
            metrics::INBOX_DURATION.took_in([self.consumer], began.elapsed(), &span);
            drop(span);
            let fault = match outcome {
                Ok(report) => {
                    tries = 0;
                    self.tell(&part, &report);
                    continue;
                }
                Err(fault) => fault,
            };
            metrics::INBOX_FAILURES.one([self.consumer]);
            tries += 1;
            if self.try_again(&fault, tries).await {
                todo.push(part);
                let wait = backoff::delay(tries, Duration::from_millis(50), Duration::from_secs(1));
                tracing::debug!(consumer = self.consumer, %fault, tries, "batch is tried again");
                tokio::select! { () = stop.cancelled() => return false, () = tokio::time::sleep(wait) => {} }
                continue;
            }
            tries = 0;
            if let [event] = part.as_slice() {
                if !self.set_aside(event, &fault, stop).await {
                    return false;
                }
            } else {
                let (left, right) = part.split_at(part.len() / 2);
                todo.push(Arc::new(right.to_vec()));
                todo.push(Arc::new(left.to_vec()));
            }
        }
        true
    }

    /// Whether the same transaction is worth another try. A database that cannot be reached is waited for as long as it takes:
    /// nothing could be parked either.
    async fn try_again(&self, fault: &Fault, tries: u32) -> bool {
        match fault {
            Fault::Conflict(_) | Fault::Timeout | Fault::DeadlineExceeded => tries <= RETRIES,
            fault if is_infrastructure(fault) => tries <= STUBBORN || self.db.ping().await.is_err(),
            _ => false,
        }
    }

    async fn transaction(&self, events: Arc<Vec<Received>>) -> Result<Report, Fault> {
        let this = self.clone();
        self.db
            .uow_within(BUDGET, move |tx| {
                let (this, events) = (this.clone(), events.clone());
                Box::pin(async move { this.inside(tx, &events).await })
            })
            .await
    }

    async fn inside(&self, tx: &mut PgConnection, events: &[Received]) -> Result<Report, Fault> {
        let mut report = Report::default();
        let alone: Vec<bool> = events.iter().map(|event| self.handler.alone(&event.kind)).collect();
        if alone.iter().all(|alone| *alone) {
            self.handler.handle_all(tx, &events.iter().collect::<Vec<_>>()).await?;
            report.applied = (0..events.len()).collect();
            return Ok(report);
        }
        let (mut last, mut waiting) = known(tx, self.consumer, events).await?;
        let found = last.clone();
        let mut advanced: HashSet<AggregateKey> = HashSet::new();
        let mut runnable: Vec<&Received> = Vec::new();
        for (nth, event) in events.iter().enumerate() {
            if alone[nth] {
                runnable.push(event);
                report.applied.push(nth);
                continue;
            }
            let key = (event.topic.clone(), event.aggregate);
            let before = last.get(&key).copied().unwrap_or(0);
            if event.sequence <= before && !plant::bug("bug-03") {
                report.duplicates += 1;
            } else if waiting.contains(&key) {
                park(tx, self.consumer, event, "waits for an earlier event", 0, 0.0).await?;
                report.parked += 1;
            } else if event.sequence > before + 1 {
                let error = format!("sequence {} after {before}", event.sequence);
                park(tx, self.consumer, event, &error, 0, 1.0).await?;
                waiting.insert(key);
                report.parked += 1;
                report.gaps += 1;
            } else {
                if self.handler.wants(&event.kind) {
                    runnable.push(event);
                    report.applied.push(nth);
                } else {
                    report.ignored += 1;
                }
                last.insert(key.clone(), event.sequence);
                advanced.insert(key);
            }
        }
        let moves: Vec<Move> = advanced.into_iter().map(|key| (found.get(&key).copied().unwrap_or(0), last[&key], key)).collect();
        if plant::bug("bug-04") {
            advance(&mut *self.db.read().acquire().await?, self.consumer, moves.clone()).await?;
        }
        if !runnable.is_empty() {
            self.handler.handle_all(tx, &runnable).await?;
        }
        if !plant::bug("bug-04") {
            advance(tx, self.consumer, moves).await?;
        }
        plant::crash_point("C-06");
        Ok(report)
    }

    fn tell(&self, events: &[Received], report: &Report) {
        self.count("applied", report.applied.len() as u64);
        self.count("ignored", report.ignored);
        self.count("duplicate", report.duplicates);
        self.count("parked", report.parked);
        if report.gaps > 0 {
            tracing::error!(consumer = self.consumer, gaps = report.gaps, "events are missing, later ones wait");
            metrics::INBOX_GAPS.add([self.consumer], report.gaps);
        }
        let (now, delay) = (OffsetDateTime::now_utc(), metrics::INBOX_DELAY.of([self.consumer]));
        for nth in &report.applied {
            let event = &events[*nth];
            delay.took_in((now - event.at).try_into().unwrap_or_default(), event.span.as_ref().unwrap_or(&Span::none()));
        }
        if !report.applied.is_empty() {
            let applied: Vec<Received> = report.applied.iter().map(|nth| events[*nth].clone()).collect();
            self.handler.committed(&applied);
        }
    }

    /// Parks the event that cannot be applied.
    async fn set_aside(&self, event: &Received, fault: &Fault, stop: &CancellationToken) -> bool {
        let error = describe(fault);
        event.span().in_scope(|| {
            Span::current().record("otel.status_code", "ERROR");
            tracing::warn!(consumer = self.consumer, kind = event.kind, event = %event.event_id, error, "event parked");
        });
        let bound = Arc::new((self.consumer, event.clone(), error, self.handler.alone(&event.kind)));
        let parked = self.until_written(stop, || {
            let bound = bound.clone();
            self.db.uow_within(BUDGET, move |tx| {
                let bound = bound.clone();
                Box::pin(async move {
                    let (consumer, event, error, alone) = &*bound;
                    let (last, _) = known(tx, consumer, std::slice::from_ref(event)).await?;
                    if !alone && last.values().any(|last| event.sequence <= *last) {
                        return Ok(()); // somebody else could apply it
                    }
                    park(tx, consumer, event, error, 1, 1.0).await
                })
            })
        });
        let parked = parked.await;
        self.count("parked", u64::from(parked));
        parked
    }

    /// Gives up a record that is no event.
    async fn bury(&self, record: Broken, stop: &CancellationToken) -> bool {
        let (topic, partition, offset, error) = (&record.topic, record.partition, record.offset, &record.error);
        tracing::error!(consumer = self.consumer, topic, partition, offset, error, "record is no event");
        self.count("unreadable", 1);
        let bound = Arc::new((self.consumer, record.clone()));
        self.until_written(stop, || {
            let bound = bound.clone();
            self.db.uow_within(BUDGET, move |tx| {
                let bound = bound.clone();
                Box::pin(async move { bury_broken(tx, bound.0, &bound.1).await })
            })
        })
        .await
    }

    /// Writes as often as it takes: what is neither applied nor written down would be lost. False when stopped.
    async fn until_written<R>(&self, stop: &CancellationToken, write: impl Fn() -> R) -> bool
    where
        R: Future<Output = Result<(), Fault>>,
    {
        let mut tries = 0;
        while let Err(fault) = write().await {
            tries += 1;
            tracing::warn!(consumer = self.consumer, %fault, tries, "event cannot be put aside");
            let wait = backoff::delay(tries, Duration::from_millis(50), Duration::from_secs(5));
            tokio::select! { () = stop.cancelled() => return false, () = tokio::time::sleep(wait) => {} }
        }
        true
    }
}

/// Whether the fault says nothing about the event.
pub(super) fn is_infrastructure(fault: &Fault) -> bool {
    matches!(fault, Fault::Saturated | Fault::Overloaded | Fault::Unavailable { .. } | Fault::CommitUnknown)
}

/// A fault for the record: its text and what caused it.
pub(super) fn describe(fault: &Fault) -> String {
    match std::error::Error::source(fault) {
        Some(cause) => format!("{}: {fault}: {cause}", fault.reason()),
        None => format!("{}: {fault}", fault.reason()),
    }
}

fn aggregates(events: &[Received]) -> Vec<Uuid> {
    events.iter().map(|e| e.aggregate).collect::<HashSet<_>>().into_iter().collect()
}

/// The last sequence of each aggregate, and the aggregates with parked events. One statement, so that both are of one moment: a redriver
/// that empties a key commits its sequence in the same transaction.
async fn known(
    tx: &mut PgConnection,
    consumer: &str,
    events: &[Received],
) -> Result<(HashMap<AggregateKey, i64>, HashSet<AggregateKey>), Fault> {
    let topics: Vec<&str> = events.iter().map(|e| e.topic.as_str()).collect::<HashSet<_>>().into_iter().collect();
    let select = "select topic, aggregate, last_seq from inbox_sequence where consumer = $1 and topic = any($2) and aggregate = any($3)
                  union all
                  select topic, aggregate, null from parked where consumer = $1 and aggregate = any($3)";
    let rows: Vec<(String, Uuid, Option<i64>)> =
        sqlx::query_as(select).bind(consumer).bind(topics).bind(aggregates(events)).fetch_all(tx).await?;
    let (mut last, mut parked) = (HashMap::new(), HashSet::new());
    for (topic, aggregate, sequence) in rows {
        match sequence {
            Some(sequence) => _ = last.insert((topic, aggregate), sequence),
            None => _ = parked.insert((topic, aggregate)),
        }
    }
    Ok((last, parked))
}

/// Notes the last applied sequence of each aggregate, if it is still the one that was found. It is what makes a second consumer of the same
/// events, such as one that lost its partition and does not know yet, roll back what it has done.
pub(super) async fn advance(tx: &mut PgConnection, consumer: &str, mut moves: Vec<Move>) -> Result<(), Fault> {
    if moves.is_empty() {
        return Ok(());
    }
    // Sorted, so that two transactions take the same row locks in the same order.
    moves.sort_by(|(_, _, a), (_, _, b)| a.cmp(b));
    let topics: Vec<&str> = moves.iter().map(|(_, _, (topic, _))| topic.as_str()).collect();
    let aggregates: Vec<Uuid> = moves.iter().map(|(_, _, (_, aggregate))| *aggregate).collect();
    let (from, to): (Vec<i64>, Vec<i64>) = moves.iter().map(|(from, to, _)| (*from, *to)).unzip();
    let advance =
        "with m as (select * from unnest($2::text[], $3::uuid[], $4::bigint[], $5::bigint[]) as m (topic, aggregate, first, last)),
                   known as (update inbox_sequence s set last_seq = m.last from m
                             where m.first > 0 and s.consumer = $1 and s.topic = m.topic and s.aggregate = m.aggregate
                                   and s.last_seq = m.first returning 1),
                   new as (insert into inbox_sequence (consumer, topic, aggregate, last_seq)
                           select $1, m.topic, m.aggregate, m.last from m where m.first = 0 on conflict do nothing returning 1)
                   select (select count(*) from known) + (select count(*) from new)";
    let moved: i64 = sqlx::query_scalar(advance).bind(consumer).bind(topics).bind(aggregates).bind(from).bind(to).fetch_one(tx).await?;
    if usize::try_from(moved).ok() == Some(moves.len()) {
        return Ok(());
    }
    Err(Fault::Unavailable { peer: "postgres".into(), detail: "another consumer applied the same events meanwhile".into() })
}
