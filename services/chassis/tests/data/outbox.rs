//! The outbox and its relay.

use std::collections::{HashMap, HashSet};

use mercato_chassis::error::Fault;
use mercato_chassis::outbox::{self, Event};
use mercato_chassis::pg::Db;
use mercato_chassis::tasks::Tasks;
use uuid::Uuid;

use crate::support::{LONG, Seen, World, read_all, read_topic, world};

#[derive(Clone, PartialEq, prost::Message)]
pub struct Happened {
    #[prost(bytes = "vec", tag = "1")]
    pub what: Vec<u8>,
}

pub const AGGREGATE: &str = "create table aggregate (id uuid primary key, version bigint not null)";

/// Takes the aggregate's next version, under its lock, and appends the event.
pub async fn happen(db: &Db, aggregate: Uuid, kind: &'static str) {
    let written = db.uow_within(LONG, move |tx| {
        Box::pin(async move {
            let next = "insert into aggregate as a (id, version) values ($1, 1)
                        on conflict (id) do update set version = a.version + 1 returning version";
            let version: i64 = sqlx::query_scalar(next).bind(aggregate).fetch_one(&mut *tx).await?;
            let payload = Happened { what: version.to_string().into_bytes() };
            outbox::append(tx, &[Event::new("things", kind, aggregate, version, &payload)]).await
        })
    });
    written.await.unwrap();
}

/// The events without repetitions, by key; panics unless each key's sequence is 1, 2, 3 and so on.
fn in_order(seen: &[Seen]) -> HashMap<String, i64> {
    let (mut known, mut last) = (HashSet::new(), HashMap::new());
    for one in seen {
        if known.insert(one.id.clone()) {
            let last = last.entry(one.key.clone()).or_insert(0);
            assert_eq!(one.sequence, *last + 1, "key {}", one.key);
            *last = one.sequence;
        }
    }
    last
}

async fn write(w: &World, aggregates: usize, each: usize) {
    let writers: Vec<_> = (0..aggregates)
        .flat_map(|_| {
            let aggregate = Uuid::now_v7();
            // Two writers of the same aggregate, so that their transactions overlap.
            (0..2).map(move |_| aggregate)
        })
        .map(|aggregate| {
            let db = w.db.clone();
            tokio::spawn(async move {
                for _ in 0..each / 2 {
                    happen(&db, aggregate, "thing.happened").await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

const LEFT: &str = "select count(*) from outbox";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_clock_is_far_ahead_of_the_brokers_is_heard() {
    world(|w| async move {
        w.sql(AGGREGATE).await;
        w.sql("alter table outbox alter column created_at set default clock_timestamp() + interval '2 hours'").await;
        w.topics().await;
        outbox::spawn(&w.db, &w.kafka, &w.tasks).unwrap();
        happen(&w.db, Uuid::now_v7(), "thing.happened").await;
        w.until(LEFT, 0).await;
        assert_eq!(in_order(&read_all(&w.kafka, "things").await).into_values().collect::<Vec<_>>(), [1]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_arrives_once_and_in_order() {
    world(|w| async move {
        w.sql(AGGREGATE).await;
        w.topics().await;
        outbox::spawn(&w.db, &w.kafka, &w.tasks).unwrap();
        write(&w, 10, 30).await;
        w.until(LEFT, 0).await;
        let seen = read_all(&w.kafka, "things").await;
        assert_eq!(seen.iter().map(|s| &s.id).collect::<HashSet<_>>().len(), 300);
        // What is deleted after the lease was lost is sent again; a lease says how often it was taken.
        let taken = w.count("select max(epoch) from relay_lease").await;
        assert!(seen.len() == 300 || taken > 1, "{} records of 300 events, by a relay that lost no lease", seen.len());
        let last = in_order(&seen);
        assert_eq!((last.len(), last.values().all(|n| *n == 30)), (10, true));
        assert!(seen.iter().all(|s| s.kind == "thing.happened"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_dies_between_the_acknowledgement_and_the_deletion_only_repeats() {
    world(|w| async move {
        w.sql(AGGREGATE).await;
        w.sql(
            "create function keep() returns trigger language plpgsql as $$ begin raise exception 'not now'; end $$;
             create trigger keep before delete on outbox for each row execute function keep()",
        )
        .await;
        w.topics().await;
        let first = Tasks::new();
        outbox::spawn(&w.db, &w.kafka, &first).unwrap();
        write(&w, 4, 10).await;
        // Everything was sent at least once, nothing could be deleted.
        let sent = read_topic(&w.kafka, "things", 60).await;
        assert_eq!(w.count(LEFT).await, 40);
        in_order(&sent);
        first.stop();
        assert!(first.drain(LONG).await);
        w.sql("drop trigger keep on outbox").await;
        outbox::spawn(&w.db, &w.kafka, &w.tasks).unwrap();
        w.until(LEFT, 0).await;
        let seen = read_all(&w.kafka, "things").await;
        assert!(seen.len() > 40);
        assert_eq!(in_order(&seen).values().copied().collect::<Vec<_>>(), [10; 4]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_relay_sends_and_the_other_takes_over() {
    world(|w| async move {
        w.sql(AGGREGATE).await;
        w.topics().await;
        let first = Tasks::new();
        outbox::spawn(&w.db, &w.kafka, &first).unwrap();
        let aggregate = Uuid::now_v7();
        happen(&w.db, aggregate, "thing.happened").await;
        w.until(LEFT, 0).await;
        outbox::spawn(&w.db, &w.kafka, &w.tasks).unwrap();
        happen(&w.db, aggregate, "thing.happened").await;
        w.until(LEFT, 0).await;
        // A shard has one sender at a time, and its number tells how often it has changed hands: not at all while leases are renewed.
        let (owners, taken) =
            (w.count("select count(distinct owner) from relay_lease").await, w.count("select max(epoch) from relay_lease").await);
        assert!(owners == 1 || taken > 1, "{owners} relays share shards that none of them has lost");
        first.stop();
        assert!(first.drain(LONG).await);
        happen(&w.db, aggregate, "thing.happened").await;
        w.until(LEFT, 0).await;
        let seen = read_all(&w.kafka, "things").await;
        assert_eq!(in_order(&seen).values().copied().collect::<Vec<_>>(), [3]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_the_broker_never_takes_stops_its_own_key_only_and_is_put_aside() {
    world(|w| async move {
        w.sql(AGGREGATE).await;
        w.topics().await;
        outbox::spawn(&w.db, &w.kafka, &w.tasks).unwrap();
        let (huge, fine) = (Uuid::now_v7(), Uuid::now_v7());
        let append = w.db.uow_within(LONG, move |tx| {
            Box::pin(async move {
                let payload = Happened { what: vec![7; 1_200_000] };
                let small = Happened { what: vec![7] };
                let events = [
                    Event::new("things", "thing.grew", huge, 1, &payload),
                    Event::new("things", "thing.shrank", huge, 2, &small),
                    Event::new("things", "thing.happened", fine, 1, &small),
                ];
                outbox::append(tx, &events).await?;
                Ok::<_, Fault>(())
            })
        });
        append.await.unwrap();
        w.until("select count(*) from outbox_dead", 2).await;
        w.until(LEFT, 0).await;
        let seen = read_topic(&w.kafka, "things", 1).await;
        assert_eq!((seen[0].key.as_str(), seen[0].sequence), (fine.to_string().as_str(), 1));
    })
    .await;
}
