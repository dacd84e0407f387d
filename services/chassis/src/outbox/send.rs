//! Sends rows to Kafka in their order and tells of each what became of it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::{Span, field};
use uuid::Uuid;

use crate::error::Fault;
use crate::kafka::{KafkaSettings, Reports};
use crate::telemetry;

/// Between two looks for reports. The broker takes longer than that for a batch.
const TICK: Duration = Duration::from_millis(1);
/// Events of the producer served at once, at most.
const EVENTS: usize = 1000;

/// One event of the outbox.
pub(super) struct Row {
    pub id: i64,
    pub event_id: Uuid,
    pub topic: String,
    pub kind: String,
    pub aggregate: Uuid,
    pub sequence: i64,
    pub created_at: OffsetDateTime,
    pub traceparent: Option<String>,
    pub headers: Option<Json<serde_json::Map<String, serde_json::Value>>>,
    pub payload: Vec<u8>,
}

impl Row {
    pub fn read(row: &PgRow) -> Result<Row, sqlx::Error> {
        Ok(Row {
            id: row.try_get("id")?,
            event_id: row.try_get("event_id")?,
            topic: row.try_get("topic")?,
            kind: row.try_get("kind")?,
            aggregate: row.try_get("aggregate")?,
            sequence: row.try_get("sequence")?,
            created_at: row.try_get("created_at")?,
            traceparent: row.try_get("traceparent")?,
            headers: row.try_get("headers")?,
            payload: row.try_get("payload")?,
        })
    }
}

impl Row {
    /// The span of the sending, below the cause of the event; none when spans are not exported.
    fn span(&self, role: &str) -> Span {
        let Some(cause) = self.traceparent.as_deref().filter(|_| telemetry::exporting()) else { return Span::none() };
        tracing::info_span!("send", traceparent = cause, role, otel.name = %format_args!("send {}", self.topic), otel.kind = "producer",
            messaging.system = "kafka", messaging.operation.name = "send", messaging.operation.type = "send",
            messaging.destination.name = self.topic, messaging.message.id = %self.event_id, mercato.event = self.kind,
            mercato.aggregate = %self.aggregate, mercato.sequence = self.sequence, otel.status_code = field::Empty)
    }
}

/// What became of a row.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The broker has it.
    Acknowledged,
    /// Not tried, or not counted, because an earlier event of the same aggregate failed.
    Skipped,
    /// Not this time.
    Failed(String),
    /// Not ever.
    Refused(String),
}

/// Owns the producer. Only one task may use it, or the order is lost when the queue is full.
pub(super) struct Sender {
    kafka: KafkaSettings,
    role: String,
    source: String,
    producer: BaseProducer<Reports>,
    /// The number of the next record.
    next: usize,
}

impl Sender {
    pub fn new(kafka: KafkaSettings, role: &str) -> Result<Sender, Fault> {
        let producer = kafka.producer(role)?;
        Ok(Sender { kafka, role: role.to_owned(), source: format!("/mercato/{role}"), producer, next: 0 })
    }

    /// Sends the rows and waits for all reports. Errors: [`Fault::Unavailable`] when a broken producer cannot be replaced.
    pub async fn send(&mut self, rows: &[Row]) -> Result<Vec<Outcome>, Fault> {
        let mut stopped: HashSet<Uuid> = HashSet::new();
        let mut reports = Vec::with_capacity(rows.len());
        let mut spans = Vec::new();
        for row in rows {
            let span = row.span(&self.role);
            let report = if stopped.contains(&row.aggregate) { Err(Outcome::Skipped) } else { self.hand_over(row, &span).await };
            spans.push(span);
            if report.is_err() {
                stopped.insert(row.aggregate);
            }
            reports.push(report);
        }
        if crate::plant::bug("bug-15") {
            self.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight()); // as dropping it does
        }
        let mut heard = self.reports(reports.iter().filter_map(|report| report.as_ref().ok().copied())).await;
        let (mut outcomes, mut failed) = (Vec::with_capacity(rows.len()), HashSet::new());
        for ((row, report), span) in rows.iter().zip(reports).zip(spans) {
            let outcome = match report {
                Ok(_) if failed.contains(&row.aggregate) => Outcome::Skipped,
                Ok(_) if crate::plant::bug("bug-15") => Outcome::Acknowledged,
                Ok(number) => heard.remove(&number).unwrap_or_else(|| Outcome::Failed("the producer did not report".into())),
                Err(outcome) => outcome,
            };
            match outcome {
                Outcome::Acknowledged => {
                    let delay = OffsetDateTime::now_utc() - row.created_at;
                    // clocks that differ can make it negative
                    crate::metrics::OUTBOX_DELAY.took_in([&row.topic], delay.try_into().unwrap_or_default(), &span);
                }
                _ => {
                    span.record("otel.status_code", "ERROR");
                    failed.insert(row.aggregate);
                }
            }
            outcomes.push(outcome);
        }
        // Every report is in, so nothing of the old producer is in flight; what it did deliver unheard is a repeat, which is harmless.
        if let Some((code, reason)) = self.producer.client().fatal_error() {
            tracing::error!(%code, reason, "the producer is broken, making another");
            self.renew()?;
        } else if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Failed(_))) {
            tracing::warn!(role = self.role, "events were not sent in time, making another producer");
            self.renew()?;
        }
        Ok(outcomes)
    }

    /// Another producer; the old one ends on a thread that may wait for it.
    fn renew(&mut self) -> Result<(), Fault> {
        let old = std::mem::replace(&mut self.producer, self.kafka.producer(&self.role)?);
        tokio::task::spawn_blocking(move || drop(old));
        Ok(())
    }

    /// Waits until the producer has reported on all of these records, which it does after `delivery.timeout.ms` at the latest.
    async fn reports(&self, numbers: impl Iterator<Item = usize>) -> HashMap<usize, Outcome> {
        let mut missing: HashSet<usize> = numbers.collect();
        let mut heard = HashMap::with_capacity(missing.len());
        while !missing.is_empty() {
            self.poll();
            for (number, result) in self.producer.context().take() {
                // a report on an earlier round that was broken off is nobody's
                if missing.remove(&number) {
                    heard.insert(number, result.map_or_else(|error| failure(&error), |()| Outcome::Acknowledged));
                }
            }
            if !missing.is_empty() {
                tokio::time::sleep(TICK).await;
            }
        }
        heard
    }

    /// Serves what the producer has to tell: reports and errors. To be called now and then even when nothing is sent.
    pub fn poll(&self) {
        // One call serves one event, which is a batch of reports or an error.
        for _ in 0..EVENTS {
            let before = self.producer.context().count();
            self.producer.poll(Duration::ZERO);
            if self.producer.context().count() == before {
                return;
            }
        }
    }

    /// Puts one record into the producer's queue; a full queue is waited for with the same record in hand. Returns the record's number.
    async fn hand_over(&mut self, row: &Row, span: &Span) -> Result<usize, Outcome> {
        let (topic, key, number) = (self.kafka.full(&row.topic), row.aggregate.to_string(), self.next);
        self.next += 1;
        let mut record = BaseRecord::with_opaque_to(&topic, number)
            .key(&key)
            .payload(&row.payload)
            .timestamp((row.created_at.unix_timestamp_nanos() / 1_000_000) as i64)
            .headers(self.headers(row, span));
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(number),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.poll(); // the queue counts a record until its report is served
                    tokio::time::sleep(TICK).await;
                }
                Err((error, _)) => return Err(failure(&error)),
            }
        }
    }

    /// CloudEvents in binary mode.
    fn headers(&self, row: &Row, span: &Span) -> OwnedHeaders {
        let id = row.event_id.to_string();
        let subject = row.aggregate.to_string();
        let time = row.created_at.format(&Rfc3339).expect("a time of the database has a year of four digits");
        let sequence = row.sequence.to_string();
        let mut headers = OwnedHeaders::new_with_capacity(10);
        let add = |to: OwnedHeaders, key: &str, value: &str| to.insert(Header { key, value: Some(value) });
        headers = add(headers, "ce_specversion", "1.0");
        headers = add(headers, "ce_id", &id);
        headers = add(headers, "ce_type", &row.kind);
        headers = add(headers, "ce_source", &self.source);
        headers = add(headers, "ce_subject", &subject);
        headers = add(headers, "ce_time", &time);
        headers = add(headers, "ce_sequence", &sequence);
        headers = add(headers, "content-type", "application/protobuf");
        // The consumer's span is below the one that sent; without one, below the cause.
        if let Some(traceparent) = telemetry::traceparent_of(span).or_else(|| row.traceparent.clone()) {
            headers = add(headers, "traceparent", &traceparent);
        }
        for (key, value) in row.headers.iter().flat_map(|h| h.0.iter()) {
            headers = match value.as_str() {
                Some(text) => add(headers, key, text),
                None => add(headers, key, &value.to_string()),
            };
        }
        headers
    }

    /// Flushes what is queued and lets go of the producer, off the runtime's threads because both block.
    pub async fn close(self, limit: Duration) {
        let producer = self.producer;
        let flushed = tokio::task::spawn_blocking(move || producer.flush(limit)).await;
        if let Ok(Err(error)) = flushed {
            // The rows are still in the outbox.
            tracing::info!(role = self.role, %error, "producer not flushed");
        }
    }
}

fn failure(error: &KafkaError) -> Outcome {
    match error {
        KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize) => {
            Outcome::Refused(error.to_string())
        }
        _ => Outcome::Failed(error.to_string()),
    }
}
