//! Reading a Kafka topic from its end on.

use anyhow::Context;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// What every client of the bench sets.
pub fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// A reader of all partitions of `topic` that begins with what comes next, and leaves no offsets behind.
pub fn at_end(brokers: &str, topic: &str) -> anyhow::Result<StreamConsumer> {
    let consumer: StreamConsumer = client(brokers)
        .set("group.id", "mercato-bench")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "100")
        .create()
        .context("kafka")?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).context("kafka does not answer")?;
    let mut here = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
        let (_, end) = consumer.fetch_watermarks(topic, partition.id(), PATIENCE)?;
        here.add_partition_offset(topic, partition.id(), Offset::Offset(end))?;
    }
    anyhow::ensure!(here.count() > 0, "there is no topic `{topic}`");
    consumer.assign(&here)?;
    Ok(consumer)
}
