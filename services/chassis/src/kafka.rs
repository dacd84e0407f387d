//! Kafka: settings, clients configured so that nothing is lost or reordered, and topics.

pub mod archive;
mod knock;
mod security;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, DeliveryResult, ProducerContext};

use crate::error::Fault;

pub(crate) use knock::{Answer, knock};
pub use security::Security;

/// A topic's dead letters are in `<topic>.dlq`.
pub const DEAD_LETTERS: &str = ".dlq";

/// How the process reaches the brokers.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// `host:port`, several divided by commas.
    pub brokers: String,
    /// Stands before every topic and group name; empty outside tests (`MERCATO_TOPIC_PREFIX`).
    pub prefix: Arc<str>,
    /// Partitions of a new topic. Never change it in place: keys would move.
    pub partitions: i32,
    /// Replicas of a new topic; 3 in production.
    pub replicas: i32,
    /// Silence after which a consumer is checked for having stalled.
    pub watch: Duration,
    /// How the brokers are spoken to.
    pub security: Security,
}

impl KafkaSettings {
    /// One broker's settings: 6 partitions, 1 replica, a minute of silence, plain text.
    pub fn new(brokers: impl Into<String>, prefix: impl Into<Arc<str>>) -> KafkaSettings {
        let (brokers, prefix, watch) = (brokers.into(), prefix.into(), Duration::from_secs(60));
        KafkaSettings { brokers, prefix, partitions: 6, replicas: 1, watch, security: Security::default() }
    }

    /// A topic's or group's name with the prefix.
    pub(crate) fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A topic's name without the prefix.
    pub(crate) fn short<'t>(&self, full: &'t str) -> &'t str {
        full.strip_prefix(&*self.prefix).unwrap_or(full)
    }

    /// What every client of ours sets.
    fn base(&self, client: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", client)
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            // A broker that wakes from a stall can tell a client that a partition has no leader; until it asks again the client sends
            // nothing, and by default a producer asks every five minutes.
            .set("topic.metadata.refresh.interval.ms", "5000")
            .set("topic.metadata.refresh.fast.interval.ms", "250")
            .set_log_level(RDKafkaLogLevel::Warning);
        self.security.apply(&mut config);
        config
    }

    /// An idempotent producer; see the module of the outbox for how it must be used.
    pub(crate) fn producer(&self, role: &str) -> Result<BaseProducer<Reports>, Fault> {
        self.base(&format!("mercato-{role}"))
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "1")
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("message.max.bytes", "1000000")
            .set("delivery.timeout.ms", "30000")
            .create_with_context(Reports::default())
            .map_err(unavailable)
    }

    /// A consumer's settings, without its group's name: from the first event on, offsets committed by hand, and few bytes held ready.
    pub(crate) fn consumer(&self, name: &str) -> ClientConfig {
        let mut config = self.base(&format!("mercato-{name}"));
        config
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "false")
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "1000")
            .set("max.poll.interval.ms", "60000")
            .set("queued.min.messages", "1000")
            .set("queued.max.messages.kbytes", "8192")
            .set("fetch.error.backoff.ms", "100");
        config
    }
}

/// Creates the topics that are missing, and `<topic>.dlq` for each. Events are kept for ever: a new consumer starts at the first one.
/// Errors: [`Fault::Unavailable`] when the brokers do not answer within 10 s.
pub async fn ensure_topics(settings: &KafkaSettings, topics: &[&str]) -> Result<(), Fault> {
    let admin: AdminClient<DefaultClientContext> = settings.base("mercato-admin").create().map_err(unavailable)?;
    let names: Vec<String> = topics.iter().flat_map(|t| [settings.full(t), format!("{}{DEAD_LETTERS}", settings.full(t))]).collect();
    let wanted: Vec<NewTopic> = names
        .iter()
        .map(|n| {
            let topic = NewTopic::new(n, settings.partitions, TopicReplication::Fixed(settings.replicas)).set("retention.ms", "-1");
            // the broker refuses records from a clock that is an hour ahead of its own, unless it stamps them itself
            topic.set("message.timestamp.type", "LogAppendTime")
        })
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10))).request_timeout(Some(Duration::from_secs(10)));
    for result in admin.create_topics(&wanted, &options).await.map_err(unavailable)? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(Fault::Unavailable { peer: "kafka".into(), detail: format!("topic {topic}: {code}") }),
        }
    }
    Ok(())
}

/// Deletes topics with their dead letters; for tests that bring their own prefix.
pub async fn delete_topics(settings: &KafkaSettings, topics: &[&str]) -> Result<(), Fault> {
    let admin: AdminClient<DefaultClientContext> = settings.base("mercato-admin").create().map_err(unavailable)?;
    let names: Vec<String> = topics.iter().flat_map(|t| [settings.full(t), format!("{}{DEAD_LETTERS}", settings.full(t))]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    admin.delete_topics(&names, &AdminOptions::new()).await.map_err(unavailable)?;
    Ok(())
}

pub(crate) fn unavailable(error: KafkaError) -> Fault {
    Fault::Unavailable { peer: "kafka".into(), detail: error.to_string() }
}

/// What became of the records of a producer, by the number each was given. Whoever sends polls: the polling thread that rdkafka offers
/// turns in circles for the last millisecond of every tenth of a second, which for all roles together is 60 ms of CPU a second.
#[derive(Default)]
pub(crate) struct Reports(Mutex<Vec<(usize, Result<(), KafkaError>)>>);

impl Reports {
    /// What was reported since the last call.
    pub(crate) fn take(&self) -> Vec<(usize, Result<(), KafkaError>)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many reports wait to be taken.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let result = result.as_ref().map(|_| ()).map_err(|(error, _)| error.clone());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
    }
}

/// Writes one line of librdkafka. Being evicted for slowness is told nowhere else, so it is counted.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    if facility.contains("MAXPOLL") {
        crate::metrics::KAFKA_EVICTED.one([]);
    }
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(facility, "{message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(facility, "{message}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, "{message}"),
        RDKafkaLogLevel::Debug => tracing::debug!(facility, "{message}"),
    }
}
