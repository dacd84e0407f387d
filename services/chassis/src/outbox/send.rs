//! Sends rows to Kafka in their order and tells of each what became of it.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::error::Fault;
use crate::kafka::{KafkaSettings, Logged};

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
    producer: FutureProducer<Logged>,
}

impl Sender {
    pub fn new(kafka: KafkaSettings, role: &str) -> Result<Sender, Fault> {
        let producer = kafka.producer(role)?;
        Ok(Sender { kafka, role: role.to_owned(), source: format!("/mercato/{role}"), producer })
    }

    /// Sends the rows and waits for all reports. Errors: [`Fault::Unavailable`] when a broken producer cannot be replaced.
    pub async fn send(&mut self, rows: &[Row]) -> Result<Vec<Outcome>, Fault> {
        let mut stopped: HashSet<Uuid> = HashSet::new();
        let mut reports = Vec::with_capacity(rows.len());
        for row in rows {
            let report = if stopped.contains(&row.aggregate) { Err(Outcome::Skipped) } else { self.hand_over(row).await };
            if report.is_err() {
                stopped.insert(row.aggregate);
            }
            reports.push(report);
        }
        if crate::plant::bug("bug-15") {
            self.producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight()); // as dropping it does
        }
        let (mut outcomes, mut failed) = (Vec::with_capacity(rows.len()), HashSet::new());
        for (row, report) in rows.iter().zip(reports) {
            let outcome = match report {
                Ok(report) if failed.contains(&row.aggregate) => {
                    drop(report);
                    Outcome::Skipped
                }
                Ok(_) if crate::plant::bug("bug-15") => Outcome::Acknowledged,
                Ok(report) => acknowledgement(report).await,
                Err(outcome) => outcome,
            };
            match outcome {
                Outcome::Acknowledged => {
                    let delay = OffsetDateTime::now_utc() - row.created_at;
                    metrics::histogram!("outbox_delay_seconds", "topic" => row.topic.clone()).record(delay.as_seconds_f64().max(0.0));
                }
                _ => {
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

    /// Puts one record into the producer's queue; a full queue is waited for with the same record in hand.
    async fn hand_over(&self, row: &Row) -> Result<DeliveryFuture, Outcome> {
        let (topic, key) = (self.kafka.full(&row.topic), row.aggregate.to_string());
        let mut record = FutureRecord::to(&topic)
            .key(&key)
            .payload(&row.payload)
            .timestamp((row.created_at.unix_timestamp_nanos() / 1_000_000) as i64)
            .headers(self.headers(row));
        loop {
            match self.producer.send_result(record) {
                Ok(report) => return Ok(report),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err((error, _)) => return Err(failure(&error)),
            }
        }
    }

    /// CloudEvents in binary mode.
    fn headers(&self, row: &Row) -> OwnedHeaders {
        let id = row.event_id.to_string();
        let subject = row.aggregate.to_string();
        let time = row.created_at.format(&Rfc3339).expect("a time of the database has a year of four digits");
        let sequence = row.sequence.to_string();
        let mut headers = OwnedHeaders::new_with_capacity(10);
        let mut add = |key: &str, value: &str| {
            headers = std::mem::replace(&mut headers, OwnedHeaders::new_with_capacity(0)).insert(Header { key, value: Some(value) });
        };
        add("ce_specversion", "1.0");
        add("ce_id", &id);
        add("ce_type", &row.kind);
        add("ce_source", &self.source);
        add("ce_subject", &subject);
        add("ce_time", &time);
        add("ce_sequence", &sequence);
        add("content-type", "application/protobuf");
        if let Some(traceparent) = &row.traceparent {
            add("traceparent", traceparent);
        }
        for (key, value) in row.headers.iter().flat_map(|h| h.0.iter()) {
            match value.as_str() {
                Some(text) => add(key, text),
                None => add(key, &value.to_string()),
            }
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

async fn acknowledgement(report: DeliveryFuture) -> Outcome {
    match report.await {
        Ok(Ok(_)) => Outcome::Acknowledged,
        Ok(Err((error, _))) => failure(&error),
        Err(_) => Outcome::Failed("the producer went away".into()),
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
