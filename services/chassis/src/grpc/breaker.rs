//! A circuit breaker: when most calls fail or crawl, refuse at once for a while, then try a few.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Half of the time over which calls are judged.
const HALF_WINDOW: Duration = Duration::from_secs(5);
/// Fewer calls in the window do not open it.
const LEAST: u32 = 20;
/// Percent of failed or of slow calls that open it.
const FAILED: u32 = 50;
const SLOW: u32 = 80;
/// How long it stays open, the first time; doubles up to eight times this.
const OPEN: Duration = Duration::from_secs(1);
/// How many calls try whether it works again.
const PROBES: u32 = 3;

/// How a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The peer answered; refusals count as answers.
    Good,
    /// It answered, but took too long.
    Slow,
    /// It did not answer, or failed.
    Bad,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    calls: u32,
    bad: u32,
    slow: u32,
}

#[derive(Debug)]
enum State {
    Closed { since: Instant, now: Count, before: Count },
    Open { until: Instant, times: u32 },
    HalfOpen { running: u32, good: u32, times: u32 },
}

/// The breaker. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Breaker {
    state: Arc<Mutex<State>>,
}

impl Breaker {
    /// A closed one.
    pub fn new() -> Self {
        Self { state: Arc::new(Mutex::new(closed(Instant::now()))) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to call, or nothing while it is open.
    pub fn enter(&self) -> Option<Leave> {
        let mut state = self.lock();
        let probe = match &mut *state {
            State::Closed { .. } => false,
            State::Open { until, .. } if Instant::now() < *until => return None,
            State::Open { times, .. } => {
                *state = State::HalfOpen { running: 1, good: 0, times: *times };
                true
            }
            State::HalfOpen { running, good, .. } if *running + *good >= PROBES => return None,
            State::HalfOpen { running, .. } => {
                *running += 1;
                true
            }
        };
        Some(Leave { breaker: self.clone(), probe, told: false })
    }

    /// Whether a call would be refused now. One that would be let in to try is not: with nobody calling it may stay so for long.
    pub fn is_open(&self) -> bool {
        match *self.lock() {
            State::Closed { .. } => false,
            State::Open { until, .. } => Instant::now() < until,
            State::HalfOpen { running, good, .. } => running + good >= PROBES,
        }
    }

    fn record(&self, probe: bool, outcome: Option<Outcome>) {
        let at = Instant::now();
        let mut state = self.lock();
        match &mut *state {
            State::Closed { since, now, before } => {
                let Some(outcome) = outcome else { return };
                let age = at.duration_since(*since);
                if age >= HALF_WINDOW {
                    *before = if age >= 2 * HALF_WINDOW { Count::default() } else { *now };
                    (*since, *now) = (at, Count::default());
                }
                now.calls += 1;
                now.bad += u32::from(outcome == Outcome::Bad);
                now.slow += u32::from(outcome == Outcome::Slow);
                let (calls, bad, slow) = (now.calls + before.calls, now.bad + before.bad, now.slow + before.slow);
                if calls >= LEAST && (bad * 100 >= calls * FAILED || (bad + slow) * 100 >= calls * SLOW) {
                    *state = open(at, 1);
                }
            }
            State::HalfOpen { running, good, times } if probe => {
                *running = running.saturating_sub(1);
                match outcome {
                    None => {}
                    Some(Outcome::Good) => {
                        *good += 1;
                        if *good >= PROBES {
                            *state = closed(at);
                        }
                    }
                    Some(Outcome::Slow | Outcome::Bad) => *state = open(at, *times + 1),
                }
            }
            // A call that began before the breaker opened tells nothing new.
            State::HalfOpen { .. } | State::Open { .. } => {}
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

fn closed(at: Instant) -> State {
    State::Closed { since: at, now: Count::default(), before: Count::default() }
}

fn open(at: Instant, times: u32) -> State {
    State::Open { until: at + OPEN * (1 << times.saturating_sub(1).min(3)), times }
}

/// Leave to make one call. Dropped without a word, the call does not count.
#[derive(Debug)]
pub struct Leave {
    breaker: Breaker,
    probe: bool,
    told: bool,
}

impl Leave {
    /// Tells how the call went.
    pub fn tell(mut self, outcome: Outcome) {
        self.told = true;
        self.breaker.record(self.probe, Some(outcome));
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if !self.told {
            self.breaker.record(self.probe, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(breaker: &Breaker, outcome: Outcome) -> bool {
        breaker.enter().map(|leave| leave.tell(outcome)).is_some()
    }

    fn broken() -> Breaker {
        let breaker = Breaker::new();
        (0..LEAST).for_each(|_| assert!(call(&breaker, Outcome::Bad)));
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn opens_on_failures_and_closes_after_good_probes() {
        let breaker = broken();
        assert!(!call(&breaker, Outcome::Good));
        tokio::time::advance(OPEN).await;
        let probes: Vec<_> = std::iter::from_fn(|| breaker.enter()).collect();
        assert_eq!(probes.len(), PROBES as usize);
        probes.into_iter().for_each(|probe| probe.tell(Outcome::Good));
        assert!(call(&breaker, Outcome::Good));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_probe_opens_it_for_longer() {
        let breaker = broken();
        tokio::time::advance(OPEN).await;
        assert!(call(&breaker, Outcome::Bad));
        tokio::time::advance(OPEN).await;
        assert!(!call(&breaker, Outcome::Good));
        tokio::time::advance(OPEN).await;
        assert!(call(&breaker, Outcome::Good));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_as_open_only_while_a_call_would_be_refused() {
        let breaker = broken();
        assert!(breaker.is_open());
        tokio::time::advance(OPEN).await;
        assert!(!breaker.is_open());
        assert!(call(&breaker, Outcome::Good));
        assert!(!breaker.is_open(), "whether or not somebody calls again");
        let probes: Vec<_> = std::iter::from_fn(|| breaker.enter()).collect();
        assert!(breaker.is_open() && probes.len() == PROBES as usize - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_probe_makes_room_for_another() {
        let breaker = broken();
        tokio::time::advance(OPEN).await;
        for _ in 0..100 {
            drop(breaker.enter().expect("an abandoned probe does not count"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_calls_open_it_and_half_good_ones_do_not() {
        let breaker = Breaker::new();
        (0..200).for_each(|i| assert!(call(&breaker, if i % 2 == 0 { Outcome::Good } else { Outcome::Slow })));
        let breaker = Breaker::new();
        (0..LEAST).for_each(|_| assert!(call(&breaker, Outcome::Slow)));
        assert!(!call(&breaker, Outcome::Good));
    }

    #[tokio::test(start_paused = true)]
    async fn old_failures_are_forgotten() {
        let breaker = Breaker::new();
        for _ in 0..10 {
            (0..LEAST - 1).for_each(|_| assert!(call(&breaker, Outcome::Bad)));
            tokio::time::advance(3 * HALF_WINDOW).await;
        }
    }
}
