//! The cache over Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mercato_chassis::cache::Cache;
use mercato_chassis::error::Fault;
use mercato_chassis::redis::{BUDGET, Redis};
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::{env, eventually};

type Text = prost_types::StringValue;
mod prost_types {
    /// A message with one text.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct StringValue {
        #[prost(string, tag = "1")]
        pub value: String,
    }
}

fn cache(redis: Option<Redis>) -> Cache<Text> {
    Cache::messages("chassis-test", 100, Duration::from_secs(60), redis, Duration::from_secs(60))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loads_once_and_another_process_finds_it_in_redis() {
    let redis = Redis::new(&env("REDIS_URL"), None).unwrap();
    let (key, loads, asked) = (Uuid::new_v4().to_string(), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let first = cache(Some(redis.clone()));
    let all: Vec<_> = (0..20)
        .map(|_| {
            let (first, key, loads, asked) = (first.clone(), key.clone(), loads.clone(), asked.clone());
            tokio::spawn(async move {
                asked.fetch_add(1, Ordering::SeqCst);
                let load = async {
                    loads.fetch_add(1, Ordering::SeqCst);
                    while asked.load(Ordering::SeqCst) < 20 {
                        tokio::task::yield_now().await;
                    }
                    Ok::<_, Fault>(Text { value: "one".into() })
                };
                first.get_with(&key, load).await.unwrap().value
            })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), "one");
    }
    assert_eq!(loads.load(Ordering::SeqCst), 1);
    // Redis has 50 ms for each command, which a busy machine may exceed, so another process with the same value sets it again.
    eventually("redis has it", async || {
        let load = async { Ok::<_, Fault>(Text { value: "one".into() }) };
        assert_eq!(cache(Some(redis.clone())).get_with(&key, load).await.unwrap().value, "one");
        let other = cache(Some(redis.clone()));
        let read = other.get_with(&key, async { Err::<Text, _>(Fault::Overloaded) }).await;
        read.is_ok_and(|text| text.value == "one")
    })
    .await;
    eventually("redis has forgotten it", async || {
        first.invalidate(&key);
        let mut get = redis::cmd("GET");
        get.arg(format!("mercato:chassis-test:{key}"));
        let forgotten = matches!(redis.query::<Option<Vec<u8>>>(&get).await, Ok(None));
        let fresh = first.get_with(&key, async { Ok::<_, Fault>(Text { value: "two".into() }) }).await.unwrap();
        forgotten && fresh.value == "two"
    })
    .await;
}

/// On a clock that stands still but while everybody waits: each call that asks Redis takes its budget at most, and one that does not
/// takes no time at all.
#[tokio::test(start_paused = true)]
async fn redis_that_is_down_is_a_miss_and_soon_not_even_asked() {
    let cache = cache(Some(Redis::new("redis://127.0.0.1:1", None).unwrap()));
    let begun = Instant::now();
    for i in 0..100 {
        let value = i.to_string();
        let read = cache.get_with(&value.clone(), async { Ok::<_, Fault>(Text { value }) }).await.unwrap();
        assert_eq!(read.value, i.to_string());
    }
    assert!(begun.elapsed() < 10 * BUDGET, "{:?}", begun.elapsed());
}
