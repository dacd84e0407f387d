//! Closed loops, where each caller waits for its answer before it asks again, and open loops, where requests come at a fixed rate however
//! slow the answers are.

use futures_util::future::join_all;
use std::cell::Cell;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// How long an open loop may run over its time before the requests that are left are given up.
const GRACE: Duration = Duration::from_secs(3);

/// Somebody who asks, one request at a time.
pub trait Caller {
    /// Sends the nth request and waits for its answer.
    fn call(&mut self, n: u64) -> impl Future<Output = anyhow::Result<()>>;
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How long each answer took.
    pub latencies: Latencies,
    /// Requests without a good answer.
    pub failed: u64,
    /// The first of them.
    pub error: Option<String>,
    /// How long the load lasted.
    pub time: Duration,
}

impl Outcome {
    fn note(&mut self, result: anyhow::Result<()>, latency: Duration) {
        match result {
            Ok(()) => self.latencies.add(latency),
            Err(error) => {
                self.failed += 1;
                self.error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
    }

    fn merge(parts: Vec<Outcome>, time: Duration) -> Outcome {
        let mut all = Outcome { time, ..Outcome::default() };
        for part in parts {
            all.latencies.0.extend(part.latencies.0);
            all.failed += part.failed;
            all.error = all.error.or(part.error);
        }
        all
    }
}

/// Latencies; percentiles are exact.
#[derive(Debug, Default, Clone)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len().try_into().unwrap_or(u64::MAX)
    }

    /// What `thousandths` of a thousand do not exceed, for each asked.
    pub fn percentiles<const N: usize>(&self, thousandths: [usize; N]) -> [Duration; N] {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        thousandths.map(|t| {
            let rank = (sorted.len() * t).div_ceil(1000).saturating_sub(1);
            sorted.get(rank).copied().unwrap_or_default()
        })
    }
}

/// Presses for `time` with every caller asking again as soon as it is answered.
pub async fn closed<C: Caller>(callers: &mut [C], time: Duration) -> Outcome {
    let began = Instant::now();
    let next = Cell::new(0);
    let parts = join_all(callers.iter_mut().map(|caller| closed_loop(caller, &next, began + time))).await;
    Outcome::merge(parts, began.elapsed())
}

async fn closed_loop<C: Caller>(caller: &mut C, next: &Cell<u64>, until: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    loop {
        let began = Instant::now();
        if began >= until {
            return outcome;
        }
        let n = next.replace(next.get() + 1);
        let result = caller.call(n).await;
        outcome.note(result, began.elapsed());
    }
}

/// Presses for `time` with `rate` requests a second at even distances. A latency counts from the moment the request was due, so that a
/// stall shows in every request it held up.
pub async fn open<C: Caller>(callers: &mut [C], rate: u32, time: Duration) -> Outcome {
    let plan =
        Plan { began: Instant::now(), gap: Duration::from_secs(1) / rate.max(1), total: (time.as_secs_f64() * f64::from(rate)) as u64 };
    let due = Arc::new(Semaphore::new(0));
    let clock = thread::spawn({
        let due = Arc::clone(&due);
        move || plan.tick(&due)
    });
    let next = Cell::new(0);
    let parts = join_all(callers.iter_mut().map(|caller| open_loop(caller, &plan, &next, &due, plan.began + time + GRACE))).await;
    let mut outcome = Outcome::merge(parts, plan.began.elapsed());
    due.close();
    if clock.join().is_err() {
        outcome.error.get_or_insert_with(|| "the clock of the open loop broke".into());
    }
    outcome.failed += plan.total.saturating_sub(next.get());
    outcome
}

/// When each request is due.
#[derive(Clone, Copy)]
struct Plan {
    began: Instant,
    gap: Duration,
    total: u64,
}

impl Plan {
    fn due(&self, n: u64) -> Instant {
        self.began + self.gap.saturating_mul(n.try_into().unwrap_or(u32::MAX))
    }

    /// A thread of its own, because the runtime's timers know only whole milliseconds.
    fn tick(&self, due: &Semaphore) {
        for n in 0..self.total {
            while let Some(wait) = self.due(n).checked_duration_since(Instant::now()).filter(|w| !w.is_zero()) {
                thread::park_timeout(wait);
            }
            if due.is_closed() {
                return;
            }
            due.add_permits(1);
        }
    }
}

async fn open_loop<C: Caller>(caller: &mut C, plan: &Plan, next: &Cell<u64>, due: &Semaphore, until: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    while let Ok(permit) = due.acquire().await {
        permit.forget();
        let n = next.replace(next.get() + 1);
        let result = caller.call(n).await;
        outcome.note(result, plan.due(n).elapsed());
        if next.get() >= plan.total || Instant::now() > until {
            due.close();
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Prompt;
    impl Caller for Prompt {
        async fn call(&mut self, n: u64) -> anyhow::Result<()> {
            anyhow::ensure!(n != 3, "the third fails");
            Ok(())
        }
    }

    #[test]
    fn a_percentile_is_a_value_that_occurred() {
        let latencies = Latencies((1..=100).map(Duration::from_millis).collect());
        assert_eq!(latencies.percentiles([500, 990, 999]), [50, 99, 100].map(Duration::from_millis));
        assert_eq!(Latencies::default().percentiles([500]), [Duration::ZERO]);
    }

    #[tokio::test]
    async fn an_open_loop_sends_all_it_planned() {
        let outcome = open(&mut [Prompt, Prompt], 1000, Duration::from_millis(100)).await;
        assert_eq!((outcome.latencies.count(), outcome.failed), (99, 1));
        assert_eq!(outcome.error.as_deref(), Some("the third fails"));
    }
}
