//! The outbox: events are written in the transaction of their cause and sent to Kafka afterwards, at least once, in order for each
//! aggregate.

mod relay;
mod send;

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use crate::error::Fault;
use crate::pg::hint_outbox;

pub use relay::spawn;

/// Shards of the outbox. A shard's events are sent by one process at a time.
pub const SHARDS: u8 = 16;

/// Something that happened to an aggregate.
#[derive(Clone, Debug)]
pub struct Event {
    id: Uuid,
    topic: String,
    kind: String,
    aggregate: Uuid,
    sequence: i64,
    payload: Vec<u8>,
    headers: Option<serde_json::Value>,
    traceparent: Option<String>,
}

impl Event {
    /// `topic` without prefix, `kind` such as `order.created`. The sequence counts the events of this aggregate in this topic: 1, 2, 3
    /// and so on without a gap; consumers wait for a missing one. The event belongs to the trace in which it is made.
    pub fn new(topic: &'static str, kind: &'static str, aggregate: Uuid, sequence: i64, payload: &impl prost::Message) -> Event {
        Event::from_bytes(topic, kind, aggregate, sequence, payload.encode_to_vec())
    }

    /// The same with a payload that is encoded already.
    pub fn from_bytes(topic: &'static str, kind: &'static str, aggregate: Uuid, sequence: i64, payload: Vec<u8>) -> Event {
        let (topic, kind) = (topic.to_owned(), kind.to_owned());
        let traceparent = crate::telemetry::traceparent();
        Event { id: Uuid::now_v7(), topic, kind, aggregate, sequence, payload, headers: None, traceparent }
    }

    /// One that was said before and may be lost, under an id of its own: hearers know it by its number.
    pub(crate) fn again(topic: &str, kind: String, aggregate: Uuid, sequence: i64, payload: Vec<u8>) -> Event {
        let id = Uuid::now_v7();
        Event { id, topic: topic.to_owned(), kind, aggregate, sequence, payload, headers: None, traceparent: None }
    }

    /// What it happened to, and its number.
    pub(crate) fn place(&self) -> (Uuid, i64) {
        (self.aggregate, self.sequence)
    }

    /// The event's id, the same at every delivery.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// A copy of an event for the dead letters of its topic.
    pub(crate) fn dead_letter(topic: String, kind: String, payload: Vec<u8>, headers: serde_json::Value) -> Event {
        let id = Uuid::now_v7();
        let traceparent = crate::telemetry::traceparent();
        Event { id, topic, kind, aggregate: id, sequence: 1, payload, headers: Some(headers), traceparent }
    }
}

/// The shard of an aggregate, stable for ever.
fn shard(aggregate: Uuid) -> i16 {
    // Ids are UUIDs of version 7 or 8; their last byte is random in both.
    i16::from(aggregate.as_bytes()[15] % SHARDS)
}

/// Appends events in one statement. The caller must hold the aggregate's row lock (or have appended its next version) by now: that is
/// what makes the order of rows the order of events.
pub async fn append(tx: &mut PgConnection, events: &[Event]) -> Result<(), Fault> {
    if events.is_empty() {
        return Ok(());
    }
    let insert = "insert into outbox (shard, event_id, topic, kind, aggregate, sequence, traceparent, headers, payload)
                  select e.shard, e.event_id, e.topic, e.kind, e.aggregate, e.sequence, e.traceparent, e.headers, e.payload
                  from unnest($1::smallint[], $2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::bigint[], $7::bytea[], $8::text[],
                              $9::jsonb[])
                       with ordinality as e (shard, event_id, topic, kind, aggregate, sequence, payload, traceparent, headers, nth)
                  order by e.nth";
    sqlx::query(insert)
        .bind(events.iter().map(|e| shard(e.aggregate)).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.id).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.topic.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.aggregate).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.sequence).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.payload.as_slice()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.traceparent.as_deref()).collect::<Vec<_>>())
        .bind(events.iter().map(|e| e.headers.as_ref().map(Json)).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    hint_outbox();
    Ok(())
}
