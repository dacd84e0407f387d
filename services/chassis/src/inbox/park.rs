//! Rows about events that could not be applied.

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::Received;
use super::read::Broken;
use crate::error::Fault;
use crate::kafka::DEAD_LETTERS;
use crate::outbox;

/// Puts an event aside, to be tried again after `seconds` if it is the first of its aggregate.
pub(super) async fn park(
    tx: &mut PgConnection,
    consumer: &str,
    event: &Received,
    error: &str,
    attempts: i32,
    seconds: f64,
) -> Result<(), Fault> {
    let insert = "insert into parked (consumer, topic, aggregate, sequence, event_id, kind, at, traceparent, payload, source_partition,
                                      source_offset, error, attempts, next_at)
                  values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, clock_timestamp() + make_interval(secs => $14))
                  on conflict do nothing";
    sqlx::query(insert)
        .bind(consumer)
        .bind(&event.topic)
        .bind(event.aggregate)
        .bind(event.sequence)
        .bind(event.event_id)
        .bind(&event.kind)
        .bind(event.at)
        .bind(&event.traceparent)
        .bind(&event.payload[..])
        .bind(event.partition)
        .bind(event.offset)
        .bind(error)
        .bind(attempts)
        .bind(seconds)
        .execute(tx)
        .await?;
    Ok(())
}

/// Opens a case for a parked event and copies it to the dead letters of its topic.
pub(super) async fn bury(tx: &mut PgConnection, consumer: &str, event: &Received, error: &str, attempts: i32) -> Result<(), Fault> {
    let dead = "update parked set state = 'DEAD', error = $5, attempts = $6
                where consumer = $1 and topic = $2 and aggregate = $3 and event_id = $4";
    sqlx::query(dead)
        .bind(consumer)
        .bind(&event.topic)
        .bind(event.aggregate)
        .bind(event.event_id)
        .bind(error)
        .bind(attempts)
        .execute(&mut *tx)
        .await?;
    let case = "insert into dead_letter (id, consumer, topic, source_partition, source_offset, event_id, aggregate, sequence, kind, error,
                                         attempts)
                values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                on conflict (consumer, topic, source_partition, source_offset)
                do update set closed_at = null, error = excluded.error, attempts = excluded.attempts, died_at = clock_timestamp()";
    sqlx::query(case)
        .bind(Uuid::now_v7())
        .bind(consumer)
        .bind(&event.topic)
        .bind(event.partition)
        .bind(event.offset)
        .bind(event.event_id)
        .bind(event.aggregate)
        .bind(event.sequence)
        .bind(&event.kind)
        .bind(error)
        .bind(attempts)
        .execute(&mut *tx)
        .await?;
    let headers = json!({
        "mercato_consumer": consumer, "mercato_topic": event.topic, "mercato_partition": event.partition.to_string(),
        "mercato_offset": event.offset.to_string(), "mercato_error": error, "mercato_attempts": attempts.to_string(),
        "mercato_event_id": event.event_id.to_string(), "mercato_aggregate": event.aggregate.to_string(),
        "mercato_sequence": event.sequence.to_string(),
    });
    let topic = format!("{}{DEAD_LETTERS}", event.topic);
    outbox::append(tx, &[outbox::Event::dead_letter(topic, event.kind.clone(), event.payload.to_vec(), headers)]).await
}

/// Opens a case for a record that is no event, once, and copies its bytes to the dead letters of its topic.
pub(super) async fn bury_broken(tx: &mut PgConnection, consumer: &str, record: &Broken) -> Result<(), Fault> {
    let case = "insert into dead_letter (id, consumer, topic, source_partition, source_offset, error, attempts)
                values ($1, $2, $3, $4, $5, $6, 0) on conflict do nothing";
    let opened = sqlx::query(case)
        .bind(Uuid::now_v7())
        .bind(consumer)
        .bind(&record.topic)
        .bind(record.partition)
        .bind(record.offset)
        .bind(&record.error)
        .execute(&mut *tx)
        .await?;
    if opened.rows_affected() == 0 {
        return Ok(());
    }
    let headers = json!({
        "mercato_consumer": consumer, "mercato_topic": record.topic, "mercato_partition": record.partition.to_string(),
        "mercato_offset": record.offset.to_string(), "mercato_error": record.error,
    });
    let topic = format!("{}{DEAD_LETTERS}", record.topic);
    outbox::append(tx, &[outbox::Event::dead_letter(topic, "unreadable".into(), record.payload.to_vec(), headers)]).await
}
