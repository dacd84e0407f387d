//! Events for every process, for caches: from now on, without memory and without a group.

use std::time::Duration;

use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::Broadcast;
use super::read::Record;
use crate::error::Fault;
use crate::kafka::{KafkaSettings, unavailable};
use crate::tasks::Tasks;

/// The longest one blocking call to the broker may take.
const CALL: Duration = Duration::from_secs(5);

/// Starts the listeners. Events during a break are missed: what listens must also forget by time.
pub fn spawn(settings: &KafkaSettings, broadcasts: Vec<Broadcast>, tasks: &Tasks) {
    for broadcast in broadcasts {
        let listener = Listener { settings: settings.clone(), broadcast, tasks: tasks.clone() };
        tasks.spawn(listener.broadcast.name, listener.run());
    }
}

struct Listener {
    settings: KafkaSettings,
    broadcast: Broadcast,
    tasks: Tasks,
}

impl Listener {
    async fn run(self) {
        while !self.tasks.token().is_cancelled() {
            if let Err(error) = self.listen().await {
                tracing::warn!(broadcast = self.broadcast.name, %error, "listener is started again");
                self.tasks.pause(Duration::from_secs(1)).await;
            }
        }
    }

    async fn listen(&self) -> Result<(), Fault> {
        let topics: Vec<String> = self.broadcast.topics.iter().map(|t| self.settings.full(t)).collect();
        let mut config = self.settings.consumer(self.broadcast.name);
        config.set("auto.offset.reset", "latest").set("group.id", "unused");
        // Caches can wait a moment; the broker then answers ten times a second instead of at every event.
        config.set("fetch.wait.max.ms", "100").set("fetch.min.bytes", "1000000");
        let client = tokio::task::spawn_blocking(move || {
            let client: StreamConsumer = config.create()?;
            client.assign(&ends(&client, &topics)?)?;
            Ok::<_, KafkaError>(client)
        });
        let client = client.await.map_err(|error| Fault::Internal(format!("the listener did not start: {error}")))?.map_err(unavailable)?;
        let result = self.receive(&client).await;
        // Closing blocks for a moment.
        tokio::task::spawn_blocking(move || drop(client)).await.map_err(|error| Fault::Internal(format!("the listener broke: {error}")))?;
        result
    }

    async fn receive(&self, client: &StreamConsumer) -> Result<(), Fault> {
        let token = self.tasks.token();
        loop {
            let received = tokio::select! {
                () = token.cancelled() => return Ok(()),
                received = client.recv() => received,
            };
            match received {
                Ok(message) => {
                    if let Record::Event(event) = Record::read(&self.settings, &message) {
                        crate::metrics::BROADCAST_EVENTS.one([self.broadcast.name]);
                        (self.broadcast.on_event)(&event);
                    }
                }
                Err(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(unavailable(error)),
                Err(error) => {
                    tracing::debug!(broadcast = self.broadcast.name, %error, "nothing received");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// The end of every partition. Errors when a topic does not exist yet.
fn ends(client: &StreamConsumer, topics: &[String]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for topic in topics {
        let metadata = client.fetch_metadata(Some(topic), CALL)?;
        for found in metadata.topics() {
            if let Some(error) = found.error() {
                return Err(KafkaError::MetadataFetch(error.into()));
            }
            for partition in found.partitions() {
                list.add_partition_offset(found.name(), partition.id(), Offset::End)?;
            }
        }
    }
    Ok(list)
}
