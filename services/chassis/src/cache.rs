//! A two-level cache: this process' memory, with one load a key at a time, over Redis. Both may only ever be a little old.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use moka::future::Cache as Memory;

use crate::redis::Redis;

/// Turns a value into bytes for Redis and back; `None` for bytes that are not such a value.
pub struct Codec<V> {
    /// Value to bytes.
    pub encode: fn(&V) -> Vec<u8>,
    /// Bytes to value.
    pub decode: fn(&[u8]) -> Option<V>,
}

impl<V> Clone for Codec<V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Codec<V> {}

/// A cache of values by text key. Clones share the entries.
#[derive(Clone)]
pub struct Cache<V> {
    inner: Arc<Inner<V>>,
}

struct Inner<V> {
    name: &'static str,
    memory: Memory<String, V>,
    redis: Option<Redis>,
    redis_ttl: Duration,
    codec: Codec<V>,
    /// Counts invalidations: a load that ran during one must not leave its value behind.
    drops: AtomicU64,
}

impl<V: Clone + Send + Sync + 'static> Cache<V> {
    /// `l1_entries` values for at most `l1_ttl` in memory, and for `l2_ttl` in Redis when there is one.
    pub fn new(name: &'static str, l1_entries: u64, l1_ttl: Duration, redis: Option<Redis>, l2_ttl: Duration, codec: Codec<V>) -> Self {
        let memory = Memory::builder().max_capacity(l1_entries).time_to_live(l1_ttl).build();
        Cache { inner: Arc::new(Inner { name, memory, redis, redis_ttl: l2_ttl, codec, drops: AtomicU64::new(0) }) }
    }

    /// The value from memory, from Redis, or from `load`, which runs once for all callers that wait for the same key. An error of `load`
    /// is given to all of them and not kept.
    pub async fn get_with<E>(&self, key: &str, load: impl Future<Output = Result<V, E>>) -> Result<V, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        let inner = &self.inner;
        if let Some(value) = inner.memory.get(key).await {
            inner.count("memory");
            return Ok(value);
        }
        let drops = inner.drops.load(Ordering::Acquire);
        let value = inner.memory.try_get_with_by_ref(key, inner.fill(key, load)).await?;
        if inner.drops.load(Ordering::Acquire) != drops {
            self.invalidate(key);
        }
        Ok(value)
    }

    /// Forgets a key here at once and in Redis soon after. Other processes keep theirs until they are told or it grows old.
    pub fn invalidate(&self, key: &str) {
        self.inner.drops.fetch_add(1, Ordering::AcqRel);
        // The entry is removed at the first poll; what may remain is housekeeping that the cache catches up with by itself.
        self.inner.memory.invalidate(key).now_or_never();
        if let Some(redis) = self.inner.redis.clone() {
            let mut command = redis::cmd("DEL");
            command.arg(self.inner.redis_key(key));
            tokio::spawn(async move {
                // A failure leaves the old value for its remaining time to live.
                redis.query::<()>(&command).await.ok();
            });
        }
    }
}

impl<M: prost::Message + Default + Clone + 'static> Cache<M> {
    /// A cache of protobuf messages.
    pub fn messages(name: &'static str, l1_entries: u64, l1_ttl: Duration, redis: Option<Redis>, l2_ttl: Duration) -> Self {
        let codec = Codec { encode: M::encode_to_vec, decode: |bytes| M::decode(Bytes::copy_from_slice(bytes)).ok() };
        Cache::new(name, l1_entries, l1_ttl, redis, l2_ttl, codec)
    }
}

impl<V> Inner<V> {
    fn redis_key(&self, key: &str) -> String {
        format!("mercato:{}:{key}", self.name)
    }

    fn count(&self, from: &'static str) {
        crate::metrics::CACHE_READS.one([self.name, from]);
    }

    async fn fill<E>(&self, key: &str, load: impl Future<Output = Result<V, E>>) -> Result<V, E> {
        if let Some(value) = self.read_redis(key).await {
            self.count("redis");
            return Ok(value);
        }
        self.count("source");
        let drops = self.drops.load(Ordering::Acquire);
        let value = load.await?;
        if let Some(redis) = self.redis.clone().filter(|_| self.drops.load(Ordering::Acquire) == drops) {
            let mut command = redis::cmd("SET");
            command.arg(self.redis_key(key)).arg((self.codec.encode)(&value)).arg("PX").arg(self.redis_ttl.as_millis() as u64);
            tokio::spawn(async move {
                // Not having it in Redis costs the next reader a load, nothing else.
                redis.query::<()>(&command).await.ok();
            });
        }
        Ok(value)
    }

    async fn read_redis(&self, key: &str) -> Option<V> {
        let redis = self.redis.as_ref()?;
        let mut command = redis::cmd("GET");
        command.arg(self.redis_key(key));
        let bytes: Option<Vec<u8>> = redis.query(&command).await.ok()?;
        (self.codec.decode)(&bytes?)
    }
}
