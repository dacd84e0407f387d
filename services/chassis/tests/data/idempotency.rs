//! Idempotency keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mercato_chassis::error::{Fault, HTTP_CODE, Refusal, ServiceError as _, status};
use mercato_chassis::idempotency::{Answer, Key, REPLAYED, find, once};
use mercato_chassis::pg::{Db, PgSettings};
use sqlx::PgConnection;

use crate::support::{TestError, World, world};

#[derive(Clone, PartialEq, prost::Message)]
struct Reply {
    #[prost(int64, tag = "1")]
    id: i64,
}

fn key(name: &str, fingerprint: u8) -> Key {
    Key::new("/test.v1.Things/Make", "somebody", name, [fingerprint; 32])
}

fn make(tx: &mut PgConnection) -> BoxFuture<'_, Result<Reply, TestError>> {
    Box::pin(async move {
        let id = sqlx::query_scalar("insert into thing (name) values ('a') returning id").fetch_one(tx).await?;
        Ok(Reply { id })
    })
}

/// Makes a closure general over the life of the connection.
fn effect<F>(f: F) -> F
where
    F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<Reply, TestError>>,
{
    f
}

async fn things(w: &World) -> i64 {
    w.count("select count(*) from thing").await
}

const THING: &str = "create table thing (id bigint generated always as identity primary key, name text)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_gets_the_same_answer_and_another_is_refused() {
    world(|w| async move {
        w.sql(THING).await;
        assert!(find::<Reply>(&w.db, &key("k", 1)).await.unwrap().is_none());
        let first = once(&w.db, &key("k", 1), make).await.unwrap();
        assert!(!first.replayed);
        let again = once(&w.db, &key("k", 1), make).await.unwrap();
        assert_eq!(again, Answer { message: first.message.clone(), replayed: true });
        assert_eq!(again.into_response().metadata().get(REPLAYED).unwrap(), "true");
        let found = find::<Reply>(&w.db, &key("k", 1)).await.unwrap().unwrap().unwrap();
        assert_eq!(found.message, first.message);
        let other = once(&w.db, &key("k", 2), make).await.unwrap_err();
        assert!(matches!(other.fault(), Some(Fault::IdempotencyKeyReused)));
        assert!(matches!(find::<Reply>(&w.db, &key("k", 2)).await, Err(Fault::IdempotencyKeyReused)));
        assert_eq!(things(&w).await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twins_at_the_same_time_have_one_effect() {
    world(|w| async move {
        w.sql(THING).await;
        let twins: Vec<_> = (0..8)
            .map(|_| {
                let db = w.db.clone();
                tokio::spawn(async move {
                    loop {
                        match once(&db, &key("k", 1), make).await {
                            Ok(answer) => return answer,
                            // Told to come back, because there are more of them than places: it comes back.
                            Err(error) if matches!(error.fault(), Some(Fault::Saturated)) => {
                                tokio::time::sleep(Duration::from_millis(5)).await;
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        let (mut answers, mut fresh) = (Vec::new(), 0);
        for twin in twins {
            let answer = twin.await.unwrap();
            fresh += u32::from(!answer.replayed);
            answers.push(answer.message);
        }
        assert_eq!(fresh, 1);
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(things(&w).await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_twin_that_takes_too_long_is_told_to_come_back() {
    world(|w| async move {
        w.sql(THING).await;
        // A twin without patience for locks.
        let hasty = PgSettings { lock_timeout: Duration::from_millis(20), ..w.settings.clone() };
        let hasty = Db::connect(&hasty, &w.tasks).await.unwrap();
        let (begun, gate) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Semaphore::new(0)));
        let slow = {
            let (db, begun, gate) = (w.db.clone(), begun.clone(), gate.clone());
            tokio::spawn(async move {
                let work = effect(move |tx| {
                    let (begun, gate) = (begun.clone(), gate.clone());
                    let made = make(tx);
                    Box::pin(async move {
                        let made = made.await;
                        begun.notify_one();
                        drop(gate.acquire().await);
                        made
                    })
                });
                once(&db, &key("k", 1), work).await
            })
        };
        begun.notified().await;
        let twin = once(&hasty, &key("k", 1), make).await.unwrap_err();
        assert!(matches!(twin.fault(), Some(Fault::InProgress)), "{twin}");
        gate.add_permits(1);
        assert!(!slow.await.unwrap().unwrap().replayed);
        hasty.close().await;
        assert!(once(&w.db, &key("k", 1), make).await.unwrap().replayed);
        assert_eq!(things(&w).await, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_repeated_and_its_partial_effect_undone() {
    world(|w| async move {
        w.sql(THING).await;
        let sold_out = Arc::new(AtomicBool::new(true));
        let buy = {
            let sold_out = sold_out.clone();
            effect(move |tx| {
                let refuse = sold_out.load(Ordering::SeqCst);
                let made = make(tx);
                Box::pin(async move {
                    let made = made.await?;
                    if refuse { Err(TestError::SoldOut) } else { Ok(made) }
                })
            })
        };
        let first = status(once(&w.db, &key("k", 1), buy.clone()).await.unwrap_err());
        assert_eq!(things(&w).await, 0);
        sold_out.store(false, Ordering::SeqCst);
        let again = status(once(&w.db, &key("k", 1), buy).await.unwrap_err());
        assert_eq!((first.code(), first.message(), first.details()), (again.code(), again.message(), again.details()));
        assert_eq!(Refusal::of(&again).reason, "SOLD_OUT");
        assert_eq!(again.metadata().get(HTTP_CODE).unwrap().to_str().unwrap(), "409");
        assert!(first.metadata().get(REPLAYED).is_none() && again.metadata().get(REPLAYED).is_some());
        assert_eq!(things(&w).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passing_fault_leaves_the_key_free_and_an_unknown_commit_is_resolved() {
    world(|w| async move {
        w.sql(THING).await;
        let runs = Arc::new(AtomicU32::new(0));
        let flaky = {
            let runs = runs.clone();
            effect(move |tx| {
                let run = runs.fetch_add(1, Ordering::SeqCst);
                let made = make(tx);
                Box::pin(async move {
                    let made = made.await?;
                    match run {
                        0 => Err(Fault::Unavailable { peer: "somebody".into(), detail: String::new() }.into()),
                        1 => Err(Fault::CommitUnknown.into()),
                        _ => Ok(made),
                    }
                })
            })
        };
        let first = once(&w.db, &key("k", 1), flaky.clone()).await.unwrap_err();
        assert!(matches!(first.fault(), Some(Fault::Unavailable { .. })));
        assert!(!once(&w.db, &key("k", 1), flaky).await.unwrap().replayed);
        assert_eq!((things(&w).await, runs.load(Ordering::SeqCst)), (1, 3));
    })
    .await;
}

#[test]
fn derived_ids_follow_from_the_key_alone() {
    let id = key("k", 1).derived_uuid("order");
    assert_eq!(id, key("k", 2).derived_uuid("order"));
    assert_ne!(id, key("l", 1).derived_uuid("order"));
    assert_ne!(id, key("k", 1).derived_uuid("payment"));
    assert_eq!(id.get_version_num(), 8);
}
