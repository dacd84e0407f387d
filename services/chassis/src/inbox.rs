//! The inbox: events are applied once, in order for each aggregate, in the transaction that notes how far the aggregate has come. That number
//! alone tells a repetition; no row is kept for each event.
//!
//! An event that cannot be applied is parked with all later events of its aggregate, tried again with growing pauses, and after twelve
//! attempts given up: a row in `dead_letter`, a copy in `<topic>.dlq`, and its aggregate waits for a person. Other aggregates go on.

mod apply;
mod broadcast;
mod park;
mod read;
mod redrive;
mod run;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::error::Fault;
use crate::telemetry;

pub use broadcast::spawn as spawn_broadcasts;
pub use run::spawn;

/// An event as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// The same at every delivery.
    pub event_id: Uuid,
    /// Without prefix.
    pub topic: String,
    /// Such as `order.created`.
    pub kind: String,
    /// What it happened to.
    pub aggregate: Uuid,
    /// 1, 2, 3 and so on for each aggregate of the topic.
    pub sequence: i64,
    /// When it was written.
    pub at: OffsetDateTime,
    /// The encoded message.
    pub payload: Bytes,
    /// The trace of its cause.
    pub traceparent: Option<String>,
    /// What is traced of its processing, when spans are exported.
    pub(crate) span: Option<tracing::Span>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

impl Received {
    /// A span that continues the event's trace; what follows from the event belongs into it.
    pub fn span(&self) -> tracing::Span {
        self.span.clone().unwrap_or_else(|| {
            let traceparent = self.traceparent.as_deref();
            tracing::info_span!("consume", traceparent, kind = self.kind, aggregate = %self.aggregate, sequence = self.sequence)
        })
    }

    /// Begins the span of the event's processing by a consumer, when spans are exported: below the one that sent it, and linked to it.
    pub(crate) fn traced(mut self, consumer: &'static str) -> Received {
        if telemetry::exporting() {
            let (sent, name) = (self.traceparent.as_deref(), format!("process {}", self.topic));
            let span = tracing::info_span!("consume", traceparent = sent, role = role_of(consumer), otel.name = name, otel.kind = "consumer",
                messaging.system = "kafka", messaging.operation.name = "process", messaging.operation.type = "process",
                messaging.destination.name = self.topic, messaging.destination.partition.id = %self.partition,
                messaging.kafka.offset = self.offset, messaging.consumer.group.name = %format_args!("mercato.{consumer}"),
                messaging.message.id = %self.event_id, mercato.event = self.kind, mercato.aggregate = %self.aggregate,
                mercato.sequence = self.sequence, otel.status_code = tracing::field::Empty);
            sent.into_iter().for_each(|sent| telemetry::link(&span, sent));
            self.span = Some(span);
        }
        self
    }

    /// Runs something in the event's trace, such as making the events that follow from it.
    pub fn in_trace<T>(&self, f: impl FnOnce() -> T) -> T {
        self.span().in_scope(f)
    }

    /// The message. Errors: [`Fault::Internal`] when the payload is not such a message.
    pub fn decode<M: prost::Message + Default>(&self) -> Result<M, Fault> {
        M::decode(self.payload.clone()).map_err(|error| Fault::Internal(format!("event {} of kind {}: {error}", self.event_id, self.kind)))
    }
}

/// The role of a consumer, `ordering` of `ordering.payments`.
fn role_of(consumer: &str) -> &str {
    consumer.split_once('.').map_or(consumer, |(role, _)| role)
}

/// What a consumer does with an event.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Whether events of this kind are handled; others only advance the sequence.
    fn wants(&self, kind: &str) -> bool;

    /// Whether events of this kind stand alone: a repetition changes nothing and their order does not matter, because what they say carries
    /// its own version or is naturally done once. They are taken without a memory of them, and those that are not wanted cost nothing at
    /// all. All kinds of an aggregate must answer alike, or its sequence has gaps.
    fn alone(&self, _kind: &str) -> bool {
        false
    }

    /// Applies the event inside the runner's transaction: rows, outbox rows and work items only; never a call to anybody. It may run
    /// again after a rollback.
    async fn handle(&self, tx: &mut PgConnection, event: &Received) -> Result<(), Fault>;

    /// Applies the events of one transaction, in order; one aggregate may have several. The default takes them one by one; a handler on
    /// a busy path overrides it to do the same with a few statements for all. What it makes for an event belongs into
    /// [`Received::in_trace`].
    async fn handle_all(&self, tx: &mut PgConnection, events: &[&Received]) -> Result<(), Fault> {
        for event in events {
            self.handle(tx, event).instrument(event.span()).await?;
        }
        Ok(())
    }

    /// After the commit of a batch, with the events that were handled; drop cache entries here. Must not fail.
    fn committed(&self, _events: &[Received]) {}
}

/// One consumer group.
#[derive(Clone)]
pub struct Consumer {
    /// Such as `ordering.payments`; the group is `mercato.<name>`. Never change it: what was applied is noted under it.
    pub name: &'static str,
    /// Without prefix.
    pub topics: &'static [&'static str],
    /// Applies the events.
    pub handler: Arc<dyn Handler>,
}

/// Called for each event by every process, from now on, without memory: for caches only.
#[derive(Clone)]
pub struct Broadcast {
    /// For logs and metrics.
    pub name: &'static str,
    /// Without prefix.
    pub topics: &'static [&'static str],
    /// Must return at once.
    pub on_event: Arc<dyn Fn(&Received) + Send + Sync>,
}

/// An event that was given up.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct DeadLetter {
    /// Id of the case.
    pub id: Uuid,
    /// Who could not apply it.
    pub consumer: String,
    /// Without prefix.
    pub topic: String,
    /// None when the record could not even be read.
    pub event_id: Option<Uuid>,
    /// What it happened to, when known.
    pub aggregate: Option<Uuid>,
    /// Its number, when known.
    pub sequence: Option<i64>,
    /// Why.
    pub error: String,
    /// When it was given up.
    pub died_at: OffsetDateTime,
}

/// The open cases, the oldest first.
pub async fn dead_letters(pool: &PgPool, limit: i64) -> Result<Vec<DeadLetter>, Fault> {
    let select = "select id, consumer, topic, event_id, aggregate, sequence, error, died_at from dead_letter
                  where closed_at is null order by died_at limit $1";
    Ok(sqlx::query_as(select).bind(limit).fetch_all(pool).await?)
}

/// Gives the event of a case twelve more attempts and closes the case. False when the case is closed or its record was unreadable.
pub async fn redrive(tx: &mut PgConnection, case: Uuid) -> Result<bool, Fault> {
    let update = "with closed as (
                      update dead_letter set closed_at = clock_timestamp() where id = $1 and closed_at is null and event_id is not null
                      returning consumer, topic, aggregate, event_id)
                  update parked p set state = 'WAITING', attempts = 0, next_at = clock_timestamp() from closed c
                  where p.consumer = c.consumer and p.topic = c.topic and p.aggregate = c.aggregate and p.event_id = c.event_id";
    Ok(sqlx::query(update).bind(case).execute(tx).await?.rows_affected() > 0)
}
