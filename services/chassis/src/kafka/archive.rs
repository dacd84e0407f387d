//! Copies of the topics in files, for backups: what was said, in order, up to one moment.
//!
//! A backup of the databases is one moment; the broker is never at the same one. What consumers had not yet taken at that moment is in the
//! broker alone, and what was said after it never happened once the databases are back. So a copy of the log's end belongs to a backup,
//! and of it only that is said again which its sender still knows to have said.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Write};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::future_producer::DeliveryFuture;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{DEAD_LETTERS, KafkaSettings, ensure_topics, unavailable};
use crate::error::Fault;

/// The longest one question to the broker may take.
const CALL: Duration = Duration::from_secs(10);
/// The longest a read may stand still before it is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Records sent together.
const CHUNK: usize = 1000;

/// A line of a copy: what it is of, an event, or its end, without which it was cut off.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    Copy(Origin),
    Event(Line),
    End { events: u64 },
}

/// Which shop a copy is of: for each role the birth of its database, in microseconds since 1970, which a restored one has kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// By role.
    pub databases: BTreeMap<String, i64>,
}

impl Origin {
    /// The first role that was born at another time there than here.
    pub fn differs(&self, here: &Origin) -> Option<&str> {
        self.databases
            .iter()
            .find(|(role, born)| here.databases.get(*role).is_some_and(|here| here != *born))
            .map(|(role, _)| role.as_str())
    }
}

/// One record as a line of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Without prefix.
    pub topic: String,
    /// Milliseconds since 1970, as the record has it.
    pub time: i64,
    /// The aggregate, which is the record's key.
    pub aggregate: Uuid,
    /// Its number among the aggregate's events.
    pub sequence: i64,
    /// In their order.
    pub headers: Vec<(String, String)>,
    /// In Base64.
    pub payload: String,
}

/// How far the slowest consumer of each partition was: topic without prefix, partition, and the first offset it still wants.
pub type Place = Vec<(String, i32, i64)>;

/// Where each partition of the copied topics begins and ends; the end excluded.
type Span = BTreeMap<(String, i32), (i64, i64)>;

/// How far the slowest consumer groups are now. Asked before the databases are copied, it tells where the copy's missing events begin.
/// Blocks.
///
/// # Errors
/// [`Fault::Unavailable`] when the broker does not answer.
pub fn place(settings: &KafkaSettings, topics: &[&str]) -> Result<Place, Fault> {
    let reader: BaseConsumer = settings.consumer("archive").set("group.id", "unused").create().map_err(unavailable)?;
    let mut span = whole(settings, &reader, topics)?;
    from_the_slowest(settings, &reader, &mut span)?;
    Ok(span.into_iter().map(|((topic, partition), (from, _))| (settings.short(&topic).to_owned(), partition, from)).collect())
}

/// Writes the events of `topics` as lines of JSON, each partition's in their order: from a place on, or all. Returns how many. Blocks.
///
/// # Errors
/// [`Fault::Unavailable`] when the broker does not answer, [`Fault::Internal`] for a place that is not in this log, for a record that is no
/// event, or when `out` fails.
pub fn save(settings: &KafkaSettings, topics: &[&str], of: &Origin, since: Option<&Place>, out: &mut dyn Write) -> Result<u64, Fault> {
    let mut config = settings.consumer("archive");
    let reader: BaseConsumer = config.set("group.id", "unused").set("enable.partition.eof", "true").create().map_err(unavailable)?;
    let mut span = whole(settings, &reader, topics)?;
    for (topic, partition, offset) in since.into_iter().flatten() {
        match span.get_mut(&(settings.full(topic), *partition)) {
            Some((from, to)) if *offset <= *to => *from = (*from).max(*offset),
            // somebody else's, or from before the topics were made anew: what is missing would be missed at the restore
            _ => return Err(Fault::Internal(format!("the place is not in this log: {topic}/{partition} has no event {offset}"))),
        }
    }
    put(&Entry::Copy(of.clone()), out)?;
    let mut list = TopicPartitionList::new();
    span.retain(|_, (from, to)| from < to);
    for ((topic, partition), (from, _)) in &span {
        list.add_partition_offset(topic, *partition, Offset::Offset(*from)).map_err(unavailable)?;
    }
    reader.assign(&list).map_err(unavailable)?;
    let (mut count, mut heard) = (0, std::time::Instant::now());
    while !span.is_empty() {
        match reader.poll(Duration::from_secs(1)) {
            Some(Ok(record)) => {
                heard = std::time::Instant::now();
                let partition = (record.topic().to_owned(), record.partition());
                let Some((_, to)) = span.get(&partition).copied() else { continue };
                if record.offset() < to {
                    write(settings, &record, out)?;
                    count += 1;
                }
                if record.offset() + 1 >= to {
                    span.remove(&partition);
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) | None if heard.elapsed() < SILENCE => {}
            Some(Err(KafkaError::PartitionEOF(_))) | None => {
                return Err(Fault::Unavailable { peer: "kafka".into(), detail: format!("{} partitions are silent", span.len()) });
            }
            Some(Err(error)) => return Err(unavailable(error)),
        }
    }
    put(&Entry::End { events: count }, out)?;
    Ok(count)
}

fn put(entry: &Entry, out: &mut dyn Write) -> Result<(), Fault> {
    let text = serde_json::to_string(entry).map_err(|error| Fault::Internal(format!("the copy cannot be written: {error}")))?;
    writeln!(out, "{text}").map_err(|error| Fault::Internal(format!("the copy cannot be written: {error}")))
}

/// All partitions, from their first record to their last.
fn whole(settings: &KafkaSettings, reader: &BaseConsumer, topics: &[&str]) -> Result<Span, Fault> {
    let mut span = Span::new();
    for topic in topics {
        let topic = settings.full(topic);
        let metadata = reader.fetch_metadata(Some(&topic), CALL).map_err(unavailable)?;
        for partition in metadata.topics().iter().flat_map(|found| found.partitions()) {
            let ends = ends(reader, &topic, partition.id())?;
            span.insert((topic.clone(), partition.id()), ends);
        }
    }
    Ok(span)
}

/// A partition that has just been made, or whose broker has just started, has no leader for a moment.
fn ends(reader: &BaseConsumer, topic: &str, partition: i32) -> Result<(i64, i64), Fault> {
    let began = std::time::Instant::now();
    loop {
        match reader.fetch_watermarks(topic, partition, CALL) {
            Err(KafkaError::MetadataFetch(
                RDKafkaErrorCode::NotLeaderForPartition | RDKafkaErrorCode::LeaderNotAvailable | RDKafkaErrorCode::UnknownTopicOrPartition,
            )) if began.elapsed() < SILENCE => {
                // nothing is assigned, so this only lets the client work
                drop(reader.poll(Duration::from_millis(100)));
            }
            ends => return ends.map_err(unavailable),
        }
    }
}

/// Leaves out what every group that hears a topic has committed. A group that hears it has committed somewhere in it, for a first event
/// is committed whether or not it was wanted; where it has not, it may want everything.
fn from_the_slowest(settings: &KafkaSettings, reader: &BaseConsumer, span: &mut Span) -> Result<(), Fault> {
    let mut slowest: HashMap<(String, i32), i64> = HashMap::new();
    for group in groups(settings, reader)? {
        let asking: BaseConsumer = settings.consumer("archive").set("group.id", &group).create().map_err(unavailable)?;
        let mut list = TopicPartitionList::new();
        for (topic, partition) in span.keys() {
            list.add_partition(topic, *partition);
        }
        let committed = asking.committed_offsets(list, CALL).map_err(unavailable)?;
        let heard: Vec<_> = committed.elements();
        let topics: Vec<&str> = heard.iter().filter(|e| matches!(e.offset(), Offset::Offset(_))).map(|e| e.topic()).collect();
        for element in heard.iter().filter(|e| topics.contains(&e.topic())) {
            let from = if let Offset::Offset(offset) = element.offset() { offset } else { 0 };
            let known = slowest.entry((element.topic().to_owned(), element.partition())).or_insert(from);
            *known = from.min(*known);
        }
    }
    for (partition, (from, _)) in span {
        *from = (*from).max(slowest.get(partition).copied().unwrap_or(0));
    }
    Ok(())
}

/// The consumer groups of this installation.
fn groups(settings: &KafkaSettings, reader: &BaseConsumer) -> Result<Vec<String>, Fault> {
    let list = reader.fetch_group_list(None, CALL).map_err(unavailable)?;
    let ours = settings.full("mercato.");
    Ok(list.groups().iter().map(|group| group.name().to_owned()).filter(|name| name.starts_with(&ours)).collect())
}

fn write(settings: &KafkaSettings, record: &BorrowedMessage<'_>, out: &mut dyn Write) -> Result<(), Fault> {
    let broken = |why: &str| Fault::Internal(format!("{}/{}/{}: {why}", record.topic(), record.partition(), record.offset()));
    let mut headers = Vec::new();
    for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
        let value = std::str::from_utf8(header.value.unwrap_or_default()).map_err(|_| broken("a header is no text"))?;
        headers.push((header.key.to_owned(), value.to_owned()));
    }
    let find = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let line = Line {
        topic: settings.short(record.topic()).to_owned(),
        time: record.timestamp().to_millis().unwrap_or_default(),
        aggregate: find("ce_subject").and_then(|id| Uuid::parse_str(id).ok()).ok_or_else(|| broken("no event: ce_subject"))?,
        sequence: find("ce_sequence").and_then(|n| n.parse().ok()).ok_or_else(|| broken("no event: ce_sequence"))?,
        payload: STANDARD.encode(record.payload().unwrap_or_default()),
        headers,
    };
    put(&Entry::Event(line), out)
}

/// Deletes the topics, their dead letters and the consumer groups, and makes the topics anew, empty. Every process that consumes must have
/// ended. Blocks on the broker for up to a minute.
///
/// # Errors
/// [`Fault::Unavailable`], also while a group still has members; nothing is deleted then.
pub async fn empty(settings: &KafkaSettings, topics: &[&str]) -> Result<(), Fault> {
    let reader: BaseConsumer = settings.consumer("archive").set("group.id", "unused").create().map_err(unavailable)?;
    let admin: AdminClient<DefaultClientContext> = settings.base("mercato-admin").create().map_err(unavailable)?;
    let options = AdminOptions::new().operation_timeout(Some(CALL)).request_timeout(Some(CALL));
    let groups = groups(settings, &reader)?;
    if !groups.is_empty() {
        let names: Vec<&str> = groups.iter().map(String::as_str).collect();
        for result in admin.delete_groups(&names, &options).await.map_err(unavailable)? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => {}
                Err((group, code)) => {
                    return Err(Fault::Unavailable { peer: "kafka".into(), detail: format!("group {group} is not deleted: {code}") });
                }
            }
        }
    }
    let names: Vec<String> = topics.iter().flat_map(|t| [settings.full(t), format!("{}{DEAD_LETTERS}", settings.full(t))]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for result in admin.delete_topics(&names, &options).await.map_err(unavailable)? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((topic, code)) => {
                return Err(Fault::Unavailable { peer: "kafka".into(), detail: format!("topic {topic} is not deleted: {code}") });
            }
        }
    }
    gone(&reader, &names).await?;
    ensure_topics(settings, topics).await?;
    there(settings, &reader, topics).await
}

/// A new topic is not known everywhere at once.
async fn there(settings: &KafkaSettings, reader: &BaseConsumer, topics: &[&str]) -> Result<(), Fault> {
    let began = std::time::Instant::now();
    loop {
        match whole(settings, reader, topics) {
            Ok(span) if topics.iter().all(|topic| span.keys().any(|(name, _)| *name == settings.full(topic))) => return Ok(()),
            Err(error) if began.elapsed() > CALL * 6 => return Err(error),
            Ok(_) if began.elapsed() > CALL * 6 => {
                return Err(Fault::Unavailable { peer: "kafka".into(), detail: "a new topic does not appear".into() });
            }
            Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Deletion is asked for at once and done a little later; a topic cannot be made again before.
async fn gone(reader: &BaseConsumer, names: &[&str]) -> Result<(), Fault> {
    let began = std::time::Instant::now();
    loop {
        let metadata = reader.fetch_metadata(None, CALL).map_err(unavailable)?;
        let Some(left) = metadata.topics().iter().find(|topic| names.contains(&topic.name())) else { return Ok(()) };
        if began.elapsed() > CALL * 6 {
            return Err(Fault::Unavailable { peer: "kafka".into(), detail: format!("topic {} is still there", left.name()) });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Says events again, into topics that must be empty.
pub struct Sender {
    settings: KafkaSettings,
    producer: FutureProducer,
}

impl Sender {
    /// # Errors
    /// [`Fault::Unavailable`], also when a topic is missing or holds something: two histories must not be mixed.
    pub fn new(settings: &KafkaSettings, topics: &[&str]) -> Result<Sender, Fault> {
        let reader: BaseConsumer = settings.consumer("archive").set("group.id", "unused").create().map_err(unavailable)?;
        let span = whole(settings, &reader, topics)?;
        if let Some(((topic, _), _)) = span.iter().find(|(_, (from, to))| from < to) {
            return Err(Fault::Unavailable { peer: "kafka".into(), detail: format!("topic {topic} is not empty") });
        }
        let producer = settings
            .base("mercato-archive")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("delivery.timeout.ms", "60000")
            .create()
            .map_err(unavailable)?;
        Ok(Sender { settings: settings.clone(), producer })
    }

    /// Sends lines in their order and waits for the broker.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] when one was not taken: empty the topics and begin again.
    pub async fn send(&self, lines: &[Line]) -> Result<(), Fault> {
        let mut reports: Vec<DeliveryFuture> = Vec::with_capacity(lines.len());
        for line in lines {
            reports.push(self.hand_over(line).await?);
        }
        for report in reports {
            let report = report.await.map_err(|_| Fault::Unavailable { peer: "kafka".into(), detail: "the producer went away".into() })?;
            report.map_err(|(error, _)| unavailable(error))?;
        }
        Ok(())
    }

    async fn hand_over(&self, line: &Line) -> Result<DeliveryFuture, Fault> {
        let (topic, key) = (self.settings.full(&line.topic), line.aggregate.to_string());
        let payload = STANDARD.decode(&line.payload).map_err(|error| Fault::Internal(format!("a payload of the copy: {error}")))?;
        let mut headers = OwnedHeaders::new_with_capacity(line.headers.len());
        for (key, value) in &line.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record = FutureRecord::to(&topic).key(&key).payload(&payload).timestamp(line.time).headers(headers);
        loop {
            match self.producer.send_result(record) {
                Ok(report) => return Ok(report),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err((error, _)) => return Err(unavailable(error)),
            }
        }
    }
}

/// Reads a copy from its first line to its last and says whose it is: nothing of a damaged one is to be said again.
///
/// # Errors
/// [`Fault::Internal`] for a copy that is cut off, has a line that is none of ours, or is of other topics.
pub fn verify(from: &mut dyn BufRead, topics: &[&str]) -> Result<Origin, Fault> {
    let Some(Entry::Copy(origin)) = next(from, 1)? else { return Err(Fault::Internal("this is no copy of events".into())) };
    let mut count = 0;
    loop {
        let nth = count + 2;
        let broken = |why: String| Fault::Internal(format!("line {nth} of the copy: {why}"));
        match next(from, nth)? {
            Some(Entry::Event(line)) if !topics.contains(&line.topic.as_str()) => return Err(broken(format!("no topic {}", line.topic))),
            Some(Entry::Event(line)) => {
                STANDARD.decode(&line.payload).map_err(|error| broken(format!("payload: {error}")))?;
                count += 1;
            }
            Some(Entry::End { events }) if events == count => break,
            Some(Entry::End { events }) => return Err(broken(format!("{count} of {events} events are there"))),
            Some(Entry::Copy(_)) => return Err(broken("another copy begins".into())),
            None => return Err(Fault::Internal(format!("the copy is cut off after {count} events"))),
        }
    }
    match next(from, count + 3)? {
        None => Ok(origin),
        Some(_) => Err(Fault::Internal("the copy goes on after its end".into())),
    }
}

/// Reads the events of a copy, some at a time; none at its end.
///
/// # Errors
/// [`Fault::Internal`] for a line that is none of ours.
pub fn read(from: &mut dyn BufRead) -> Result<Vec<Line>, Fault> {
    let (mut lines, mut nth) = (Vec::new(), 0);
    while lines.len() < CHUNK {
        nth += 1;
        match next(from, nth)? {
            Some(Entry::Event(line)) => lines.push(line),
            Some(Entry::Copy(_) | Entry::End { .. }) => {}
            None => break,
        }
    }
    Ok(lines)
}

fn next(from: &mut dyn BufRead, nth: u64) -> Result<Option<Entry>, Fault> {
    let mut text = String::new();
    if from.read_line(&mut text).map_err(|error| Fault::Internal(format!("the copy cannot be read: {error}")))? == 0 {
        return Ok(None);
    }
    if !text.ends_with('\n') {
        return Err(Fault::Internal(format!("the copy is cut off in line {nth}")));
    }
    let entry = serde_json::from_str(&text).map_err(|error| Fault::Internal(format!("line {nth} of the copy: {error}")))?;
    Ok(Some(entry))
}
