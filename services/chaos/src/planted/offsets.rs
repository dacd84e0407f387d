//! Topics, and how far the shop's consumers say they are.

use super::{LIMIT, TICK};
use crate::world::World;
use anyhow::{Context, Result, ensure};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};
use std::time::{Duration, Instant};

/// The shop's consumers, each with the topic it hears.
const CONSUMERS: [(&str, &str); 4] =
    [("ordering.payments", "payments"), ("payment.orders", "orders"), ("inventory.orders", "orders"), ("catalog.inventory", "inventory")];
const PARTITIONS: i32 = 3;
const CALL: Duration = Duration::from_secs(60);

/// Makes topics, with their dead letters.
pub(super) async fn create(brokers: &str, topics: &[String]) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let names: Vec<String> = topics.iter().flat_map(|topic| [topic.clone(), format!("{topic}.dlq")]).collect();
    let new: Vec<NewTopic<'_>> = names.iter().map(|name| NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1))).collect();
    for made in admin.create_topics(&new, &AdminOptions::new().operation_timeout(Some(CALL))).await? {
        made.map_err(|(topic, code)| anyhow::anyhow!("topic {topic}: {code}"))?;
    }
    Ok(())
}

/// Whether every consumer has committed its place at the end of its topic.
pub(super) async fn caught_up(world: &World) -> Result<bool> {
    let (brokers, prefix) = (world.brokers(), world.topic_prefix());
    let look = move || {
        for (consumer, topic) in CONSUMERS {
            let (client, partitions) = member(&brokers, &prefix, consumer, topic)?;
            let committed = client.committed_offsets(partitions, CALL)?;
            for place in committed.elements() {
                let (low, high) = client.fetch_watermarks(place.topic(), place.partition(), CALL)?;
                let at = if let Offset::Offset(at) = place.offset() { at } else { low };
                if at < high {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    };
    tokio::task::spawn_blocking(look).await?
}

/// Puts every consumer back to the first event of its topic. The shop must have left its groups.
pub(super) async fn rewind(world: &World) -> Result<()> {
    let (brokers, prefix) = (world.brokers(), world.topic_prefix());
    let end = Instant::now() + LIMIT;
    for (consumer, topic) in CONSUMERS {
        loop {
            let (brokers, prefix) = (brokers.clone(), prefix.clone());
            let put_back = move || {
                let (client, mut partitions) = member(&brokers, &prefix, consumer, topic)?;
                partitions.set_all_offsets(Offset::Offset(0))?;
                client.commit(&partitions, CommitMode::Sync).context("put a consumer back")
            };
            match tokio::task::spawn_blocking(put_back).await? {
                Ok(()) => break,
                // the broker may still wait for the members it had
                Err(error) => ensure!(Instant::now() < end, "{consumer}: {error:#}"),
            }
            tokio::time::sleep(TICK).await;
        }
    }
    Ok(())
}

/// Speaks in the name of a consumer without becoming a member of its group.
fn member(brokers: &str, prefix: &str, consumer: &str, topic: &str) -> Result<(BaseConsumer, TopicPartitionList)> {
    let client = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", format!("{prefix}mercato.{consumer}"))
        .set("enable.auto.commit", "false")
        .create()?;
    let mut partitions = TopicPartitionList::new();
    partitions.add_partition_range(&format!("{prefix}{topic}"), 0, PARTITIONS - 1);
    Ok((client, partitions))
}
