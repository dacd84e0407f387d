//! Redis, which holds nothing we cannot lose. Every failure is a miss: at most 50 ms, and nothing at all while the breaker is open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, FromRedisValue, RedisResult, TlsCertificates};
use tokio::time::Instant;

use crate::error::Fault;
use crate::metrics;

/// The time one call may take.
pub const BUDGET: Duration = Duration::from_millis(50);

/// Failures in a row after which calls are refused.
const FAILURES: u32 = 5;

/// How long they are refused before one is let through again.
const OPEN: Duration = Duration::from_secs(1);

/// The time a connection of its own may take to find out what is wrong.
const EXAMINED: Duration = Duration::from_secs(3);

/// How often that is found out at most.
const EXAMINE: Duration = Duration::from_secs(60);

/// A connection that is made in the background, mended by itself, and never waited for longer than [`BUDGET`].
#[derive(Clone)]
pub struct Redis {
    manager: ConnectionManager,
    breaker: Arc<Breaker>,
    doctor: Arc<Doctor>,
}

impl Redis {
    /// Prepares the connection; Redis need not be up. Must be called inside the runtime. Over `rediss://` the server is verified: by the
    /// certificates in `ca` (PEM), or by the authorities of the web. Errors: [`Fault::Internal`] for a url or certificates that cannot be
    /// used.
    pub fn new(url: &str, ca: Option<&[u8]>) -> Result<Redis, Fault> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_millis(250)))
            .set_response_timeout(Some(BUDGET))
            .set_number_of_retries(2)
            .set_min_delay(Duration::from_millis(50));
        let unusable = |error: redis::RedisError| Fault::Internal(format!("redis cannot be used: {error}"));
        let client = match ca {
            Some(ca) => Client::build_with_tls(url, TlsCertificates { client_tls: None, root_cert: Some(ca.to_vec()) }),
            None => Client::open(url),
        };
        let client = client.map_err(unusable)?;
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(unusable)?;
        ["ok", "error", "refused"].iter().for_each(|outcome| metrics::REDIS_CALLS.add([outcome], 0));
        let redis = Redis { manager, breaker: Arc::new(Breaker::new()), doctor: Arc::new(Doctor { client, last: AtomicU64::new(0) }) };
        // a wrong password or authority is told at once, to the one who deploys
        redis.examine();
        Ok(redis)
    }

    /// Has the log tell why Redis cannot be used. The calls themselves cannot know: they give up before the connection does.
    fn examine(&self) {
        let (doctor, now) = (self.doctor.clone(), self.breaker.now() + 1);
        let last = doctor.last.load(Ordering::Relaxed);
        let due = last == 0 || now >= last + EXAMINE.as_millis() as u64;
        if due && doctor.last.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tokio::spawn(async move { doctor.examine().await });
        }
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
        if self.breaker.note(result.is_ok()) {
            self.examine();
        }
        metrics::REDIS_CALLS.one([if result.is_ok() { "ok" } else { "error" }]);
        result
    }
}

fn down(detail: String) -> Fault {
    Fault::Unavailable { peer: "redis".into(), detail }
}

/// Finds out what is wrong.
struct Doctor {
    client: Client,
    /// When it was last at work, in milliseconds of the breaker's time, and one more; 0: never.
    last: AtomicU64,
}

impl Doctor {
    async fn examine(&self) {
        let asked = async {
            let mut connection = self.client.get_multiplexed_async_connection().await?;
            redis::cmd("PING").query_async::<()>(&mut connection).await
        };
        match tokio::time::timeout(EXAMINED, asked).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "redis is not available, caches and limits do without"),
            Err(_) => tracing::warn!("redis does not answer, caches and limits do without"),
        }
    }
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

    /// Whether it opened just now.
    fn note(&self, ok: bool) -> bool {
        if ok {
            self.failures.store(0, Ordering::Relaxed);
            return false;
        }
        let opens = self.failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILURES;
        if opens {
            self.shut_until.store(self.now() + OPEN.as_millis() as u64, Ordering::Relaxed);
        }
        opens
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
