//! From a Kafka record to an event.

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::Received;
use crate::kafka::KafkaSettings;

/// A record that is no event.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub payload: Bytes,
    pub error: String,
}

/// One record.
pub(super) enum Record {
    Event(Received),
    Broken(Broken),
}

impl Record {
    pub fn offset(&self) -> i64 {
        match self {
            Record::Event(event) => event.offset,
            Record::Broken(broken) => broken.offset,
        }
    }

    /// Reads a CloudEvent in binary mode.
    pub fn read(kafka: &KafkaSettings, message: &BorrowedMessage<'_>) -> Record {
        let payload = Bytes::copy_from_slice(message.payload().unwrap_or_default());
        let (topic, partition, offset) = (kafka.short(message.topic()).to_owned(), message.partition(), message.offset());
        match Received::parse(message) {
            Ok(read) => Record::Event(Received { topic, partition, offset, payload, ..read }),
            Err(error) => Record::Broken(Broken { topic, partition, offset, payload, error: error.replace('\0', "\\0") }),
        }
    }
}

impl Received {
    /// The event that the headers of a record tell of, without payload and place.
    ///
    /// # Errors
    /// What is missing or cannot be read.
    pub fn parse(message: &impl Message) -> Result<Received, String> {
        let header = |name: &str| -> Option<&str> {
            let value = message.headers()?.iter().find(|h| h.key == name)?.value?;
            std::str::from_utf8(value).ok()
        };
        let required = |name: &'static str| header(name).ok_or_else(|| format!("no header {name}"));
        let uuid = |name: &'static str| Uuid::parse_str(required(name)?).map_err(|error| format!("header {name}: {error}"));
        let sequence = required("ce_sequence")?.parse::<i64>().map_err(|error| format!("header ce_sequence: {error}"))?;
        if sequence < 1 {
            return Err("header ce_sequence: below 1".into());
        }
        let kind = required("ce_type")?;
        // it is stored with what cannot be applied, and PostgreSQL takes no zero byte in a text
        if kind.is_empty() || !kind.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("header ce_type: not visible ascii".into());
        }
        Ok(Received {
            event_id: uuid("ce_id")?,
            topic: String::new(),
            kind: kind.to_owned(),
            aggregate: uuid("ce_subject")?,
            sequence,
            at: OffsetDateTime::parse(required("ce_time")?, &Rfc3339).map_err(|error| format!("header ce_time: {error}"))?,
            payload: Bytes::new(),
            traceparent: header("traceparent").map(str::to_owned),
            span: None,
            partition: 0,
            offset: 0,
        })
    }
}
