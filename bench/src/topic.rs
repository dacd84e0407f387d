//! Reading a Kafka topic from its end on.

use anyhow::Context;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// What every client of the bench sets.
pub fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set_log_level(RDKafkaLogLevel::Warning);
    config
}

/// A reader of all partitions of `topic` that begins with what comes next, and leaves no offsets behind.
pub async fn at_end(brokers: &str, topic: &str) -> anyhow::Result<StreamConsumer> {
    let consumer: StreamConsumer = client(brokers)
        .set("group.id", "mercato-bench")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "100")
        .create()
        .context("kafka")?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).context("kafka does not answer")?;
    let mut here = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|t| t.partitions()) {
        let end = end(&consumer, topic, partition.id()).await?;
        here.add_partition_offset(topic, partition.id(), Offset::Offset(end))?;
    }
    anyhow::ensure!(here.count() > 0, "there is no topic `{topic}`");
    consumer.assign(&here)?;
    Ok(consumer)
}

/// Where a partition ends. One that was made just now may have no leader yet, which is waited for.
async fn end(consumer: &StreamConsumer, topic: &str, partition: i32) -> anyhow::Result<i64> {
    let until = Instant::now() + PATIENCE;
    loop {
        match consumer.fetch_watermarks(topic, partition, PATIENCE) {
            Ok((_, end)) => return Ok(end),
            Err(KafkaError::MetadataFetch(RDKafkaErrorCode::NotLeaderForPartition | RDKafkaErrorCode::LeaderNotAvailable))
                if Instant::now() < until =>
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error).with_context(|| format!("the end of partition {partition} of `{topic}`")),
        }
    }
}
