//! Feeds consumers from Kafka. The receiving loop never runs a handler: it fills one bounded queue a partition, each emptied by a task
//! of its own, and a partition whose queue is full is paused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, Statistics, TopicPartitionList, statistics};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Consumer;
use super::apply::Applier;
use super::read::Record;
use super::redrive::Redriver;
use crate::batch::Batcher;
use crate::error::Fault;
use crate::kafka::{self, KafkaSettings, unavailable};
use crate::metrics;
use crate::pg::Db;
use crate::plant;
use crate::tasks::Tasks;

/// Records that may wait in the queue of one partition.
const QUEUE: usize = 500;
/// Records applied in one transaction.
const BATCH: usize = 100;
/// Between two transactions of one consumer under load; what comes meanwhile is applied together. An event that comes alone is applied at
/// once, and so is whatever follows it.
const PACE: Duration = Duration::from_millis(40);
/// Partitions of one consumer at most, far more than topics have.
const PARTITIONS: usize = 1024;
/// How often offsets are committed. A re-read costs a look into the inbox, a commit costs the broker a write.
const COMMIT: Duration = Duration::from_secs(1);
/// The longest one blocking call to the broker may take.
const CALL: Duration = Duration::from_secs(5);

/// Starts the consumers of one database, and the redriver of their parked events.
pub fn spawn(db: &Db, settings: &KafkaSettings, consumers: Vec<Consumer>, tasks: &Tasks) {
    if consumers.is_empty() {
        return;
    }
    for consumer in &consumers {
        let applier = Applier { db: db.clone(), consumer: consumer.name, handler: consumer.handler.clone() };
        let feed = Feed {
            together: together(&applier, tasks),
            applier,
            settings: settings.clone(),
            topics: consumer.topics,
            tasks: tasks.clone(),
        };
        metrics::INBOX_RESTARTS.add([consumer.name], 0);
        tasks.spawn(consumer.name, feed.run());
    }
    metrics::KAFKA_EVICTED.add([], 0);
    let redriver = Redriver { db: db.clone(), consumers: Arc::new(consumers), tasks: tasks.clone() };
    tasks.spawn("inbox-redriver", redriver.run());
}

/// What the partitions of one consumer have ready while a transaction commits goes into the next one together. Each partition waits for
/// its own records, so the order within it stays.
fn together(applier: &Applier, tasks: &Tasks) -> Batcher<Vec<Record>, bool> {
    let (applier, token) = (applier.clone(), tasks.token());
    Batcher::spawn(tasks, "consumed events", PARTITIONS, PARTITIONS, move |ready: Vec<Vec<Record>>| {
        let (applier, token) = (applier.clone(), token.clone());
        Box::pin(async move {
            let (partitions, next) = (ready.len(), Instant::now() + PACE);
            let records: Vec<Record> = ready.into_iter().flatten().collect();
            let loaded = records.len() > 1;
            let all = applier.apply(records, &token).await;
            if loaded {
                tokio::select! { () = token.cancelled() => {} () = tokio::time::sleep_until(next) => {} }
            }
            vec![all; partitions]
        })
    })
}

type Partition = (String, i32);

/// The queue of one partition, for as long as it is assigned to us.
struct Lane {
    queue: mpsc::Sender<Record>,
    /// Everything below this offset is in the database.
    done: Arc<AtomicI64>,
    committed: i64,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The partitions assigned now. A revoked one is removed by the callback, so nothing is committed for it afterwards.
#[derive(Clone)]
struct Lanes {
    consumer: &'static str,
    all: Arc<Mutex<HashMap<Partition, Lane>>>,
}

impl Lanes {
    fn lock(&self) -> MutexGuard<'_, HashMap<Partition, Lane>> {
        self.all.lock().expect("no holder of this lock panics")
    }

    fn drop_lane(&self, partition: &Partition) {
        if let Some(lane) = self.lock().remove(partition) {
            lane.stop.cancel();
        }
    }
}

impl ClientContext for Lanes {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        kafka::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka consumer");
    }

    fn stats(&self, statistics: Statistics) {
        // A partition that is not ours, or of which nothing is known yet, has -1.
        let lag = |partition: &statistics::Partition| partition.consumer_lag.max(0) as f64;
        let total: f64 = statistics.topics.values().flat_map(|topic| topic.partitions.values().map(lag)).sum();
        metrics::INBOX_LAG.set([self.consumer], total);
        let connected = statistics.brokers.values().filter(|broker| broker.nodeid >= 0 && broker.state == "UP").count();
        metrics::KAFKA_CONNECTED.set([self.consumer], connected as f64);
    }
}

impl ConsumerContext for Lanes {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            for element in list.elements() {
                self.drop_lane(&(element.topic().to_owned(), element.partition()));
            }
        }
    }
}

struct Feed {
    applier: Applier,
    together: Batcher<Vec<Record>, bool>,
    settings: KafkaSettings,
    topics: &'static [&'static str],
    tasks: Tasks,
}

impl Feed {
    async fn run(self) {
        while !self.tasks.token().is_cancelled() {
            if let Err(error) = self.consume().await {
                tracing::warn!(consumer = self.applier.consumer, %error, "consumer is started again");
                metrics::INBOX_RESTARTS.one([self.applier.consumer]);
                self.tasks.pause(Duration::from_secs(1)).await;
            }
        }
    }

    /// Runs one client until the process stops or the client is of no use any more.
    async fn consume(&self) -> Result<(), Fault> {
        let lanes = Lanes { consumer: self.applier.consumer, all: Arc::default() };
        let group = self.settings.full(&format!("mercato.{}", self.applier.consumer));
        let client: StreamConsumer<Lanes> = self
            .settings
            .consumer(self.applier.consumer)
            .set("group.id", group)
            .set("statistics.interval.ms", "5000")
            .create_with_context(lanes.clone())
            .map_err(unavailable)?;
        let topics: Vec<String> = self.topics.iter().map(|t| self.settings.full(t)).collect();
        client.subscribe(&topics.iter().map(String::as_str).collect::<Vec<_>>()).map_err(unavailable)?;
        let client = Arc::new(client);
        let result = self.receive(&client, &lanes).await;
        self.close(client, &lanes).await;
        result
    }

    async fn receive(&self, client: &Arc<StreamConsumer<Lanes>>, lanes: &Lanes) -> Result<(), Fault> {
        let (token, room) = (self.tasks.token(), Arc::new(Notify::new()));
        let mut held: HashMap<Partition, Record> = HashMap::new();
        let mut commits = tokio::time::interval(COMMIT);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                received = client.recv(), if !plant::bug("deaf") || lanes.lock().is_empty() => match received {
                    Ok(message) => {
                        heard = Instant::now();
                        let partition = (message.topic().to_owned(), message.partition());
                        let record = Record::read(&self.settings, &message);
                        if let Some(record) = self.offer(lanes, &partition, record, &room)? {
                            client.pause(&list([&partition])).map_err(unavailable)?;
                            held.insert(partition, record);
                        }
                    }
                    Err(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(unavailable(error)),
                    Err(error) => {
                        tracing::debug!(consumer = self.applier.consumer, %error, "nothing received");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                () = room.notified(), if !held.is_empty() => self.refill(client, lanes, &mut held, &room)?,
                _ = commits.tick() => {
                    self.refill(client, lanes, &mut held, &room)?;
                    commit(client, lanes);
                    if heard.elapsed() > self.settings.watch {
                        heard = Instant::now();
                        self.watch(client, lanes).await?;
                    }
                }
            }
        }
    }

    /// Puts the record into its partition's queue; gives it back when that is full. Errors when the partition's task has died.
    fn offer(&self, lanes: &Lanes, partition: &Partition, record: Record, room: &Arc<Notify>) -> Result<Option<Record>, Fault> {
        let mut lanes = lanes.lock();
        let lane = lanes.entry(partition.clone()).or_insert_with(|| self.lane(record.offset(), room.clone()));
        match lane.queue.try_send(record) {
            Ok(()) => Ok(None),
            Err(mpsc::error::TrySendError::Full(record)) => Ok(Some(record)),
            // The lane was stopped with the process; the event is read again after the next start.
            Err(mpsc::error::TrySendError::Closed(_)) if lane.stop.is_cancelled() => Ok(None),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Fault::Internal(format!("the task of {}/{} ended", partition.0, partition.1))),
        }
    }

    /// Moves on what was held back, and lets those partitions flow again.
    fn refill(
        &self,
        client: &StreamConsumer<Lanes>,
        lanes: &Lanes,
        held: &mut HashMap<Partition, Record>,
        room: &Arc<Notify>,
    ) -> Result<(), Fault> {
        for partition in held.keys().cloned().collect::<Vec<_>>() {
            let Some(record) = held.remove(&partition) else { continue };
            if !lanes.lock().contains_key(&partition) {
                continue; // revoked meanwhile: whoever has it now reads the record again
            }
            match self.offer(lanes, &partition, record, room)? {
                Some(record) => {
                    held.insert(partition, record);
                }
                None => client.resume(&list([&partition])).map_err(unavailable)?,
            }
        }
        Ok(())
    }

    fn lane(&self, first: i64, room: Arc<Notify>) -> Lane {
        let (queue, mut records) = mpsc::channel::<Record>(QUEUE);
        let (done, stop) = (Arc::new(AtomicI64::new(first)), self.tasks.token().child_token());
        let (together, progress, token) = (self.together.clone(), done.clone(), stop.clone());
        let task = self.tasks.track(async move {
            let mut batch = Vec::new();
            loop {
                tokio::select! {
                    () = token.cancelled() => return,
                    _ = records.recv_many(&mut batch, BATCH) => {}
                }
                room.notify_one();
                let Some(last) = batch.last().map(Record::offset) else { return };
                if plant::bug("bug-11") {
                    progress.store(last + 1, Ordering::Release);
                    tokio::time::sleep(COMMIT * 2).await;
                }
                // what is not applied for sure is read again after the next start
                if !together.submit(std::mem::take(&mut batch)).await.unwrap_or(false) {
                    return;
                }
                plant::crash_point("C-07");
                progress.store(last + 1, Ordering::Release);
            }
        });
        Lane { queue, done, committed: first, stop, task }
    }

    /// librdkafka can miss a wake-up and fall silent. Errors when there is something to read and nobody is busy.
    async fn watch(&self, client: &Arc<StreamConsumer<Lanes>>, lanes: &Lanes) -> Result<(), Fault> {
        if lanes.lock().values().any(|lane| lane.queue.capacity() < QUEUE) {
            return Ok(()); // we are the slow ones
        }
        let client = client.clone();
        let behind = tokio::task::spawn_blocking(move || behind(&client)).await;
        match behind {
            Ok(Ok(Some(partition))) => {
                Err(Fault::Unavailable { peer: "kafka".into(), detail: format!("the consumer has stalled at {partition}") })
            }
            Ok(Ok(None)) => Ok(()),
            // The broker cannot be asked, so it is not the wake-up that is missing.
            Ok(Err(error)) => {
                tracing::debug!(consumer = self.applier.consumer, %error, "consumer not checked");
                Ok(())
            }
            Err(error) => Err(Fault::Internal(format!("the check of the consumer ended: {error}"))),
        }
    }

    /// Lets the lanes end their batch, commits what is done, and leaves the group off the runtime's threads, because that blocks.
    async fn close(&self, client: Arc<StreamConsumer<Lanes>>, lanes: &Lanes) {
        let running: Vec<JoinHandle<()>> = {
            let mut lanes = lanes.lock();
            lanes.values_mut().map(|lane| (lane.stop.cancel(), std::mem::replace(&mut lane.task, tokio::spawn(async {}))).1).collect()
        };
        for lane in running {
            if lane.await.is_err() {
                tracing::error!(consumer = self.applier.consumer, "the task of a partition panicked");
            }
        }
        let lanes = lanes.clone();
        let left = tokio::task::spawn_blocking(move || {
            let done = progress(&lanes);
            if done.count() > 0
                && let Err(error) = client.commit(&done, CommitMode::Sync)
            {
                tracing::debug!(%error, "offsets not committed");
            }
            drop(client);
        });
        if tokio::time::timeout(CALL, left).await.is_err() {
            tracing::info!(consumer = self.applier.consumer, "the group was not left in time");
        }
    }
}

fn list<'p>(partitions: impl IntoIterator<Item = &'p Partition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in partitions {
        list.add_partition(topic, *partition);
    }
    list
}

/// Offsets that are done and not committed yet, noted as committed.
fn progress(lanes: &Lanes) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), lane) in lanes.lock().iter_mut() {
        let done = lane.done.load(Ordering::Acquire);
        if done > lane.committed && list.add_partition_offset(topic, *partition, Offset::Offset(done)).is_ok() {
            lane.committed = done;
        }
    }
    list
}

fn commit(client: &StreamConsumer<Lanes>, lanes: &Lanes) {
    let done = progress(lanes);
    if done.count() > 0
        && let Err(error) = client.commit(&done, CommitMode::Async)
    {
        tracing::debug!(%error, "offsets not committed");
    }
}

/// An assigned partition with records that were not delivered to us.
fn behind(client: &StreamConsumer<Lanes>) -> Result<Option<String>, KafkaError> {
    let assigned = client.assignment()?;
    let (positions, committed) = (client.position()?, client.committed(CALL)?);
    for element in assigned.elements() {
        let (topic, partition) = (element.topic(), element.partition());
        let (low, high) = client.fetch_watermarks(topic, partition, CALL)?;
        let offset = |list: &TopicPartitionList| match list.find_partition(topic, partition).map(|e| e.offset()) {
            Some(Offset::Offset(offset)) => Some(offset),
            _ => None,
        };
        if high > offset(&positions).or_else(|| offset(&committed)).unwrap_or(low) {
            return Ok(Some(format!("{topic}/{partition}")));
        }
    }
    Ok(None)
}
