//! The floor of an event's way: a message handed to Kafka's client and read from the topic, with the settings of the shop's relay.

use crate::Settings;
use crate::load::{Caller, Latencies, Outcome, open};
use crate::measured::Measured;
use crate::processes::Processes;
use crate::topic;
use anyhow::Context;
use rdkafka::Message;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::StreamConsumer;
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// As many as a topic of the shop has.
const PARTITIONS: i32 = 6;
const CALLERS: usize = 256;
const WARM_UP: Duration = Duration::from_secs(2);
/// From the last acknowledgement to the arrival.
const ARRIVING: Duration = Duration::from_secs(1);

/// Sends `bytes` at `rate` a second for `time`. The latencies are those from the call of the producer to the reader.
pub async fn measure(settings: &Settings, processes: &Processes, bytes: usize, rate: u32, time: Duration) -> anyhow::Result<Measured> {
    let admin: AdminClient<DefaultClientContext> = topic::client(&settings.brokers).create()?;
    let name = format!("mercato-bench-{}", std::process::id());
    let wanted = NewTopic::new(&name, PARTITIONS, TopicReplication::Fixed(1));
    for made in admin.create_topics([&wanted], &AdminOptions::new()).await? {
        made.map_err(|(topic, code)| anyhow::anyhow!("topic {topic}: {code}"))?;
    }
    let measured = load(settings, processes, &name, bytes.max(8), rate, time).await;
    admin.delete_topics(&[&name], &AdminOptions::new()).await?;
    measured
}

async fn load(settings: &Settings, processes: &Processes, name: &str, bytes: usize, rate: u32, time: Duration) -> anyhow::Result<Measured> {
    // as services/chassis/src/kafka.rs has it
    let producer: FutureProducer = topic::client(&settings.brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .create()?;
    let origin = Instant::now();
    let heard: Arc<Mutex<Latencies>> = Arc::default();
    let reader = tokio::spawn(listen(topic::at_end(&settings.brokers, name).await?, origin, Arc::clone(&heard)));
    let mut callers: Vec<Send> =
        (0..CALLERS).map(|_| Send { producer: producer.clone(), topic: name.to_owned(), origin, payload: vec![0; bytes] }).collect();
    open(&mut callers, rate, WARM_UP).await;
    tokio::time::sleep(ARRIVING).await;
    take(&heard);
    let meter = processes.start()?;
    let outcome = open(&mut callers, rate, time).await;
    tokio::time::sleep(ARRIVING).await;
    let cost = meter.stop()?;
    reader.abort();
    let (latencies, sent) = (take(&heard), outcome.latencies.count());
    anyhow::ensure!(latencies.count() == sent, "{sent} messages sent, {} read", latencies.count());
    Ok(Measured { name: "straight".into(), outcome: Outcome { latencies, ..outcome }, cost })
}

fn take(heard: &Mutex<Latencies>) -> Latencies {
    std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Send {
    producer: FutureProducer,
    topic: String,
    origin: Instant,
    payload: Vec<u8>,
}

impl Caller for Send {
    async fn call(&mut self, _: u64) -> anyhow::Result<()> {
        let key = Uuid::now_v7().to_string();
        let at = u64::try_from(self.origin.elapsed().as_nanos())?;
        self.payload.get_mut(..8).context("no room for the time")?.copy_from_slice(&at.to_be_bytes());
        let record = FutureRecord::to(&self.topic).key(&key).payload(&self.payload);
        let report = self.producer.send_result(record).map_err(|(error, _)| error)?;
        report.await.context("no report")?.map_err(|(error, _)| error)?;
        Ok(())
    }
}

/// Ends with the first error; what is missing then shows in the count.
async fn listen(consumer: StreamConsumer, origin: Instant, heard: Arc<Mutex<Latencies>>) {
    while let Ok(message) = consumer.recv().await {
        let now = origin.elapsed();
        let Some(at) = message.payload().and_then(|p| Some(u64::from_be_bytes(p.get(..8)?.try_into().ok()?))) else { return };
        heard.lock().unwrap_or_else(PoisonError::into_inner).add(now.saturating_sub(Duration::from_nanos(at)));
    }
}
