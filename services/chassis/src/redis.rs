//! Redis, which holds nothing we cannot lose. Every failure is a miss: at most 50 ms, and nothing at all while the breaker is open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, FromRedisValue, RedisResult};
use tokio::time::Instant;

use crate::error::Fault;
use crate::metrics;

/// The time one call may take.
pub const BUDGET: Duration = Duration::from_millis(50);

/// Failures in a row after which calls are refused.
const FAILURES: u32 = 5;

/// How long they are refused before one is let through again.
const OPEN: Duration = Duration::from_secs(1);

/// A connection that is made in the background, mended by itself, and never waited for longer than [`BUDGET`].
#[derive(Clone)]
pub struct Redis {
    manager: ConnectionManager,
    breaker: Arc<Breaker>,
}

impl Redis {
    /// Prepares the connection; Redis need not be up. Must be called inside the runtime. Errors: [`Fault::Internal`] for a url that
    /// cannot be parsed.
    pub fn new(url: &str) -> Result<Redis, Fault> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_millis(250)))
            .set_response_timeout(Some(BUDGET))
            .set_number_of_retries(2)
            .set_min_delay(Duration::from_millis(50));
        let manager = Client::open(url)
            .and_then(|client| ConnectionManager::new_lazy_with_config(client, config))
            .map_err(|error| Fault::Internal(format!("the redis url cannot be used: {error}")))?;
        ["ok", "error", "refused"].iter().for_each(|outcome| metrics::REDIS_CALLS.add([outcome], 0));
        Ok(Redis { manager, breaker: Arc::new(Breaker::new()) })
    }

    /// Runs one command.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Fault> {
        self.run(|mut connection| async move { command.query_async(&mut connection).await }).await
    }

    /// Runs something on the connection, within [`BUDGET`] in all. Errors: [`Fault::Unavailable`] when Redis failed, was too slow, or
    /// the breaker is open.
    pub async fn run<T, R>(&self, f: impl FnOnce(ConnectionManager) -> R) -> Result<T, Fault>
    where
        R: Future<Output = RedisResult<T>>,
    {
        if !self.breaker.lets_through() {
            metrics::REDIS_CALLS.one(["refused"]);
            return Err(down("the breaker is open".into()));
        }
        let result = match tokio::time::timeout(BUDGET, f(self.manager.clone())).await {
            Ok(result) => result.map_err(|error| down(error.to_string())),
            Err(_) => Err(down("no answer in time".into())),
        };
        self.breaker.note(result.is_ok());
        metrics::REDIS_CALLS.one([if result.is_ok() { "ok" } else { "error" }]);
        result
    }
}

fn down(detail: String) -> Fault {
    Fault::Unavailable { peer: "redis".into(), detail }
}

/// Opens after some failures in a row; then one call a second is tried.
struct Breaker {
    since: Instant,
    failures: AtomicU32,
    /// Milliseconds after `since` until which calls are refused.
    shut_until: AtomicU64,
}

impl Breaker {
    fn new() -> Breaker {
        Breaker { since: Instant::now(), failures: AtomicU32::new(0), shut_until: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        self.since.elapsed().as_millis() as u64
    }

    fn lets_through(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) < FAILURES {
            return true;
        }
        let (now, until) = (self.now(), self.shut_until.load(Ordering::Relaxed));
        // Whoever moves the end of the pause is the one that tries.
        now >= until && self.shut_until.compare_exchange(until, now + OPEN.as_millis() as u64, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn note(&self, ok: bool) {
        if ok {
            self.failures.store(0, Ordering::Relaxed);
        } else if self.failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILURES {
            self.shut_until.store(self.now() + OPEN.as_millis() as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_breaker_opens_tries_once_and_closes() {
        let breaker = Breaker::new();
        for _ in 0..FAILURES {
            assert!(breaker.lets_through());
            breaker.note(false);
        }
        assert!(!breaker.lets_through());
        tokio::time::advance(OPEN).await;
        assert!(breaker.lets_through());
        assert!(!breaker.lets_through(), "only one call is tried");
        breaker.note(true);
        assert!(breaker.lets_through());
    }
}
