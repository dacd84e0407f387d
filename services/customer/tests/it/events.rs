//! What the rest of the shop learns of customers.

use std::collections::HashSet;

use mercato_contracts::mercato::customer::v1::{
    CustomerPatch, CustomerRegistered, CustomerRolesChanged, CustomerUpdated, SetCustomerRolesRequest, UpdateCustomerRequest,
};
use mercato_testkit::LONG;
use prost::Message as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::message::{Headers as _, Message as _, OwnedMessage};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::world::{PASSWORD, World, bearer, keyed};

/// Reads both partitions from the beginning until there are `count` events. A relay that lost its lease sends some again.
async fn records(world: &World, count: usize) -> Vec<OwnedMessage> {
    let brokers = std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS must be set");
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", world.topic()).set("enable.auto.commit", "false");
    let consumer: StreamConsumer = config.create().expect("the settings are good");
    let mut partitions = TopicPartitionList::new();
    for partition in 0..2 {
        partitions.add_partition_offset(&world.topic(), partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&partitions).expect("the topic is there");
    let (mut records, mut known) = (Vec::new(), HashSet::new());
    while records.len() < count {
        let record = tokio::time::timeout(LONG, consumer.recv()).await;
        let record = record.expect("an event is missing").expect("kafka answers").detach();
        if known.insert(header(&record, "ce_id").to_owned()) {
            records.push(record);
        }
    }
    records
}

fn header<'r>(record: &'r OwnedMessage, name: &str) -> &'r str {
    let headers = record.headers().expect("headers");
    let value = headers.iter().find(|header| header.key == name).and_then(|header| header.value).unwrap_or_default();
    std::str::from_utf8(value).expect("text")
}

#[tokio::test]
async fn every_version_has_one_event_in_order_and_without_personal_data() {
    let world = World::start().await;
    let admin = world.admin().await;
    let (customer, tokens) = world.signed_in("sample").await;
    let patch = CustomerPatch { phone: "+49 30 1".into(), ..CustomerPatch::default() };
    let update = UpdateCustomerRequest { customer_id: "me".into(), customer: Some(patch), update_mask: None };
    world.customers().update_customer(bearer(keyed(update), &tokens.access_token)).await.unwrap();
    let roles = SetCustomerRolesRequest { customer_id: customer.id.clone(), roles: vec!["staff".into()] };
    world.customers().set_customer_roles(bearer(keyed(roles), &admin)).await.unwrap();

    let all = records(&world, 5).await;
    let events: Vec<&OwnedMessage> = all.iter().filter(|record| header(record, "ce_subject") == customer.id).collect();
    let kinds: Vec<(&str, &str)> = events.iter().map(|record| (header(record, "ce_type"), header(record, "ce_sequence"))).collect();
    assert_eq!(kinds, [("customer.registered", "1"), ("customer.updated", "2"), ("customer.roles_changed", "3")]);
    let payload = |at: usize| events[at].payload().expect("a payload");
    assert_eq!(CustomerRegistered::decode(payload(0)).unwrap().customer_id, customer.id);
    assert_eq!(CustomerUpdated::decode(payload(1)).unwrap().fields, ["phone"]);
    assert_eq!(CustomerRolesChanged::decode(payload(2)).unwrap().roles, ["staff"]);
    for record in &all {
        let bytes = [record.key().unwrap_or_default(), record.payload().unwrap_or_default()].concat();
        for secret in ["sample", "example.com", "+49", "Hauptstrasse", "Koeln", PASSWORD] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "`{secret}` is in an event");
        }
    }
    world.end().await;
}
