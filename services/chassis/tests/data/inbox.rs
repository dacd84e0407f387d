//! Consumers and broadcasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use mercato_chassis::error::Fault;
use mercato_chassis::inbox::{self, Broadcast, Consumer, Handler, Received};
use mercato_chassis::outbox::{self, Event};
use mercato_chassis::pg::Db;
use mercato_chassis::tasks::Tasks;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::outbox::{AGGREGATE, Happened, happen};
use crate::support::{LONG, TOPICS, World, eventually, read_topic, world};

const EFFECT: &str = "create table effect (nth bigint generated always as identity, event_id uuid primary key, aggregate uuid not null,
                                           sequence bigint not null, said bigint not null)";

/// Writes one row an event; refuses the kind `thing.broke` while it is told to.
struct Notes {
    refuse: AtomicBool,
    committed: AtomicU32,
}

#[async_trait]
impl Handler for Notes {
    fn wants(&self, kind: &str) -> bool {
        kind != "thing.bored"
    }

    async fn handle(&self, tx: &mut PgConnection, event: &Received) -> Result<(), Fault> {
        let said: i64 = String::from_utf8_lossy(&event.decode::<Happened>()?.what).parse().unwrap_or(-1);
        let insert = "insert into effect (event_id, aggregate, sequence, said) values ($1, $2, $3, $4)";
        sqlx::query(insert).bind(event.event_id).bind(event.aggregate).bind(event.sequence).bind(said).execute(tx).await?;
        if event.kind == "thing.broke" && self.refuse.load(Ordering::SeqCst) {
            return Err(Fault::Internal("this one does not work".into()));
        }
        Ok(())
    }

    fn committed(&self, events: &[Received]) {
        self.committed.fetch_add(events.len() as u32, Ordering::SeqCst);
    }
}

fn notes() -> (Arc<Notes>, Consumer) {
    let notes = Arc::new(Notes { refuse: AtomicBool::new(true), committed: AtomicU32::new(0) });
    (notes.clone(), Consumer { name: "test.notes", topics: TOPICS, handler: notes })
}

async fn ready(w: &World) {
    w.sql(AGGREGATE).await;
    w.sql(EFFECT).await;
    w.topics().await;
    outbox::spawn(&w.db, &w.kafka, &w.tasks).unwrap();
}

const EFFECTS: &str = "select count(*) from effect";
/// Effects that came before an earlier one of their aggregate.
const DISORDER: &str = "select count(*) from effect a join effect b using (aggregate) where a.nth < b.nth and a.sequence > b.sequence";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_applied_once_in_order_across_restarts_and_a_full_re_read() {
    world(|w| async move {
        ready(&w).await;
        let (notes, consumer) = notes();
        let aggregates: Vec<Uuid> = (0..5).map(|_| Uuid::now_v7()).collect();
        let first = Tasks::new();
        inbox::spawn(&w.db, &w.kafka, vec![consumer.clone()], &first);
        for n in 0..20 {
            for aggregate in &aggregates {
                happen(&w.db, *aggregate, if n % 4 == 3 { "thing.bored" } else { "thing.happened" }).await;
            }
            if n == 10 {
                first.stop();
            }
        }
        assert!(first.drain(LONG).await);
        inbox::spawn(&w.db, &w.kafka, vec![consumer], &w.tasks);
        w.until(EFFECTS, 75).await;
        // the handler is told after the commit that the count above may have seen already
        eventually("the handler is told of all", async || notes.committed.load(Ordering::SeqCst) >= 75).await;
        assert_eq!(notes.committed.load(Ordering::SeqCst), 75);
        assert_eq!(w.count(DISORDER).await, 0);
        assert_eq!(w.count("select count(*) from effect where said <> sequence").await, 0);

        // The same events again.
        repeat_all(&w).await;
        // Behind them, in each partition and of each aggregate, one that is new.
        for aggregate in &aggregates {
            happen(&w.db, *aggregate, "thing.happened").await;
        }
        w.until("select min(last_seq) from inbox_sequence", 21).await;
        assert_eq!((w.count(EFFECTS).await, w.count("select count(*) from parked").await), (80, 0));
    })
    .await;
}

/// Sends every record of the topic once more, as a relay does that died before it could delete.
async fn repeat_all(w: &World) {
    let producer = producer(w);
    for one in read_topic(&w.kafka, "things", 100).await {
        send(w, &producer, &one.key, &one.id, &one.kind, &one.sequence.to_string(), &one.payload).await;
    }
}

fn producer(w: &World) -> FutureProducer {
    ClientConfig::new().set("bootstrap.servers", &w.kafka.brokers).set("partitioner", "murmur2_random").create().unwrap()
}

async fn send(w: &World, producer: &FutureProducer, key: &str, id: &str, kind: &str, sequence: &str, payload: &[u8]) {
    let headers = [("ce_id", id), ("ce_type", kind), ("ce_subject", key), ("ce_sequence", sequence), ("ce_time", "2026-01-01T00:00:00Z")];
    let headers = headers.into_iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
    let topic = format!("{}things", w.kafka.prefix);
    let record = FutureRecord::to(&topic).key(key).payload(payload).headers(headers);
    producer.send(record, LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_fails_parks_its_aggregate_only_and_comes_back_in_order() {
    world(|w| async move {
        ready(&w).await;
        let (notes, consumer) = notes();
        let (broken, fine) = (Uuid::now_v7(), Uuid::now_v7());
        for kind in ["thing.happened", "thing.broke", "thing.happened", "thing.happened"] {
            happen(&w.db, broken, kind).await;
            happen(&w.db, fine, "thing.happened").await;
        }
        inbox::spawn(&w.db, &w.kafka, vec![consumer], &w.tasks);
        w.until(EFFECTS, 5).await;
        w.until("select count(*) from parked", 3).await;
        assert_eq!(w.count("select count(*) from parked where error like 'INTERNAL%'").await, 1);
        notes.refuse.store(false, Ordering::SeqCst);
        w.until(EFFECTS, 8).await;
        w.until("select count(*) from parked", 0).await;
        happen(&w.db, broken, "thing.happened").await;
        w.until(EFFECTS, 9).await;
        assert_eq!(w.count(DISORDER).await, 0);
    })
    .await;
}

/// Meets another consumer of the same events at the first one, which is faster.
struct Overtaken {
    db: Db,
}

#[async_trait]
impl Handler for Overtaken {
    fn wants(&self, _kind: &str) -> bool {
        true
    }

    async fn handle(&self, tx: &mut PgConnection, event: &Received) -> Result<(), Fault> {
        let insert = "insert into effect (event_id, aggregate, sequence, said) values ($1, $2, $3, 0)";
        sqlx::query(insert).bind(event.event_id).bind(event.aggregate).bind(event.sequence).execute(tx).await?;
        if event.sequence == 1 {
            let note = "insert into inbox_sequence (consumer, topic, aggregate, last_seq) values ('test.notes', 'things', $1, 1)";
            sqlx::query(note).bind(event.aggregate).execute(self.db.read()).await?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_consumer_has_applied_meanwhile_is_rolled_back() {
    world(|w| async move {
        ready(&w).await;
        let consumer = Consumer { name: "test.notes", topics: TOPICS, handler: Arc::new(Overtaken { db: w.db.clone() }) };
        let aggregate = Uuid::now_v7();
        inbox::spawn(&w.db, &w.kafka, vec![consumer], &w.tasks);
        happen(&w.db, aggregate, "thing.happened").await;
        w.until("select count(*) from inbox_sequence where last_seq = 1", 1).await;
        happen(&w.db, aggregate, "thing.happened").await;
        w.until("select count(*) from inbox_sequence where last_seq = 2", 1).await;
        assert_eq!(w.count("select sum(sequence)::bigint from effect").await, 2);
        assert_eq!(w.count("select count(*) from parked").await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_given_up_is_a_case_a_dead_letter_and_can_be_redriven() {
    world(|w| async move {
        ready(&w).await;
        let (notes, consumer) = notes();
        let broken = Uuid::now_v7();
        happen(&w.db, broken, "thing.broke").await;
        inbox::spawn(&w.db, &w.kafka, vec![consumer], &w.tasks);
        w.until("select count(*) from parked", 1).await;
        w.sql("update parked set attempts = 11, next_at = now()").await;
        w.until("select count(*) from parked where state = 'DEAD'", 1).await;
        let letters = read_topic(&w.kafka, "things.dlq", 1).await;
        assert_eq!(letters[0].kind, "thing.broke");
        let cases = inbox::dead_letters(w.db.read(), 10).await.unwrap();
        assert_eq!((cases.len(), cases[0].aggregate, cases[0].sequence), (1, Some(broken), Some(1)));
        notes.refuse.store(false, Ordering::SeqCst);
        let case = cases[0].id;
        assert!(w.db.uow(move |tx| Box::pin(inbox::redrive(tx, case))).await.unwrap());
        w.until(EFFECTS, 1).await;
        assert!(!w.db.uow(move |tx| Box::pin(inbox::redrive(tx, case))).await.unwrap());
        assert!(inbox::dead_letters(w.db.read(), 10).await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_is_waited_for_and_bytes_that_are_no_event_are_put_aside() {
    world(|w| async move {
        ready(&w).await;
        let (_, consumer) = notes();
        inbox::spawn(&w.db, &w.kafka, vec![consumer], &w.tasks);
        let (producer, key) = (producer(&w), Uuid::now_v7().to_string());
        let id = || Uuid::now_v7().to_string();
        send(&w, &producer, &key, &id(), "thing.happened", "1", b"").await;
        send(&w, &producer, &key, "what is this", "thing.happened", "2", b"rubbish").await;
        send(&w, &producer, &key, &id(), "thing.happened", "3", b"").await;
        w.until("select count(*) from parked", 1).await;
        w.until("select count(*) from dead_letter where event_id is null", 1).await;
        send(&w, &producer, &key, &id(), "thing.happened", "2", b"").await;
        w.until(EFFECTS, 3).await;
        w.until("select count(*) from parked", 0).await;
        assert_eq!(w.count(DISORDER).await, 0);
        assert_eq!(read_topic(&w.kafka, "things.dlq", 1).await[0].payload, b"rubbish");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_hears_what_happens_from_now_on() {
    world(|w| async move {
        ready(&w).await;
        happen(&w.db, Uuid::now_v7(), "thing.happened").await;
        w.until("select count(*) from outbox", 0).await;
        let heard = Arc::new(AtomicU32::new(0));
        let count = heard.clone();
        let on_event = Arc::new(move |event: &Received| {
            if event.kind == "thing.changed" {
                count.fetch_add(1, Ordering::SeqCst);
            } else {
                panic!("an event of the past");
            }
        });
        inbox::spawn_broadcasts(&w.kafka, vec![Broadcast { name: "test.cache", topics: TOPICS, on_event }], &w.tasks);
        eventually("the broadcast hears", async || {
            let event = Event::new("things", "thing.changed", Uuid::now_v7(), 1, &Happened { what: vec![] });
            let append = w.db.uow(move |tx| {
                let event = event.clone();
                Box::pin(async move { outbox::append(tx, &[event]).await })
            });
            append.await.unwrap();
            heard.load(Ordering::SeqCst) > 0
        })
        .await;
    })
    .await;
}
