//! Which spans are exported: those of traces that were sampled where they began, and the others of a trace in which something here failed
//! or was slow.

use super::{TraceParent, spans::Recording};
use crate::metrics;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Spans of one trace that wait for its end here, at most.
const GROUP: usize = 256;
/// Spans that wait in all, at most; some ten megabytes.
const WAITING: usize = 16_384;
/// Traces remembered as kept, so that what they do here later is kept too.
const REMEMBERED: usize = 512;

/// A span that has ended.
pub(super) struct Ended {
    pub(super) ids: TraceParent,
    pub(super) recording: Recording,
    pub(super) at: Duration,
}

/// Takes the spans that end.
pub(super) struct Recorder {
    shared: Arc<Shared>,
    /// The share of new traces that are sampled, of 2^64.
    share: u128,
}

struct Shared {
    /// Spans as long as this are worth keeping; none: only what is sampled is kept.
    slow: Option<Duration>,
    queue: mpsc::Sender<Ended>,
    known: Mutex<Known>,
    waiting: AtomicUsize,
}

#[derive(Default)]
struct Known {
    groups: HashMap<u128, Weak<Group>>,
    kept: VecDeque<u128>,
}

/// The spans of one trace in this process that are open at the same time or below each other. They are kept or forgotten together, when the
/// last of them has ended.
pub(super) struct Group {
    trace: u128,
    kept: AtomicBool,
    spans: Mutex<Vec<Ended>>,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dropped(why: &'static str) {
    metrics::TRACE_DROPPED.one([why]);
}

impl Recorder {
    /// Samples `ratio` of the traces that begin here. `slow` is how long a span takes that is worth keeping; zero keeps nothing else.
    pub(super) fn new(queue: mpsc::Sender<Ended>, ratio: f64, slow: Duration) -> Self {
        let slow = Some(slow).filter(|slow| !slow.is_zero());
        let shared = Shared { slow, queue, known: Mutex::default(), waiting: AtomicUsize::new(0) };
        let share = (ratio.clamp(0.0, 1.0) * 2f64.powi(64)) as u128;
        Self { shared: Arc::new(shared), share }
    }

    /// Whether a trace that begins here is sampled. Every process answers alike for the same trace.
    pub(super) fn samples(&self, trace: u128) -> bool {
        (trace & u128::from(u64::MAX)) < self.share
    }

    /// Whether spans that are not sampled may be kept.
    pub(super) fn keeps(&self) -> bool {
        self.shared.slow.is_some()
    }

    /// The group of a trace.
    pub(super) fn group(&self, trace: u128) -> Arc<Group> {
        let mut known = lock(&self.shared.known);
        if let Some(group) = known.groups.get(&trace).and_then(Weak::upgrade) {
            return group;
        }
        let kept = known.kept.contains(&trace);
        let group = Arc::new(Group { trace, kept: AtomicBool::new(kept), spans: Mutex::default(), shared: self.shared.clone() });
        known.groups.insert(trace, Arc::downgrade(&group));
        group
    }

    /// Takes a span that has ended.
    pub(super) fn ended(&self, ids: TraceParent, mut recording: Recording) {
        let at = super::spans::now();
        let Some(group) = recording.group.take() else { return self.shared.export(Ended { ids, recording, at }) };
        let slow = !recording.stream && group.slow(recording.began, at);
        if (recording.failed || slow) && !group.kept.swap(true, Ordering::Relaxed) {
            metrics::TRACE_KEPT.one([if recording.failed { "error" } else { "slow" }]);
        }
        group.push(Ended { ids, recording, at });
    }
}

impl Group {
    pub(super) fn trace(&self) -> u128 {
        self.trace
    }

    /// Whether something failed or was slow already.
    pub(super) fn kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// Whether a span of this length is worth keeping its trace.
    pub(super) fn slow(&self, began: Duration, at: Duration) -> bool {
        self.shared.slow.is_some_and(|slow| at.saturating_sub(began) >= slow)
    }

    fn push(&self, ended: Ended) {
        if self.kept() {
            let before = std::mem::take(&mut *lock(&self.spans));
            self.shared.waiting.fetch_sub(before.len(), Ordering::Relaxed);
            before.into_iter().chain([ended]).for_each(|ended| self.shared.export(ended));
            return;
        }
        let mut spans = lock(&self.spans);
        if spans.len() >= GROUP || self.shared.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            if spans.len() < GROUP {
                self.shared.waiting.fetch_sub(1, Ordering::Relaxed);
            }
            drop(spans);
            return dropped("waiting");
        }
        spans.push(ended);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let spans = std::mem::take(&mut *lock(&self.spans));
        self.shared.waiting.fetch_sub(spans.len(), Ordering::Relaxed);
        let kept = self.kept();
        {
            let mut known = lock(&self.shared.known);
            if known.groups.get(&self.trace).is_some_and(|group| group.strong_count() == 0) {
                known.groups.remove(&self.trace);
            }
            if kept && !known.kept.contains(&self.trace) {
                if known.kept.len() == REMEMBERED {
                    known.kept.pop_front();
                }
                known.kept.push_back(self.trace);
            }
        }
        if kept {
            spans.into_iter().for_each(|ended| self.shared.export(ended));
        }
    }
}

impl Shared {
    /// Never waits: a span for which there is no room is lost, and counted.
    fn export(&self, mut ended: Ended) {
        ended.ids.sampled = true;
        if self.queue.try_send(ended).is_err() {
            dropped("queue");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spans::{self, Spans};
    use super::*;
    use tracing::{Span, field, info_span};
    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    const ELSEWHERE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// Runs something of which `ratio` is sampled and what takes `slow` is kept; returns the exported spans.
    fn exported(ratio: f64, slow: Duration, run: impl FnOnce()) -> Vec<Ended> {
        let (queue, mut ended) = mpsc::channel(64);
        let recorder = Arc::new(Recorder::new(queue, ratio, slow));
        tracing::subscriber::with_default(Registry::default().with(Spans(Some(recorder))), run);
        std::iter::from_fn(|| ended.try_recv().ok()).collect()
    }

    fn names(ended: &[Ended]) -> Vec<&str> {
        ended.iter().map(|ended| &*ended.recording.name).collect()
    }

    const NEVER: Duration = Duration::from_secs(600);

    #[test]
    fn a_healthy_trace_that_was_not_sampled_is_forgotten() {
        let work = || drop(info_span!("above").in_scope(|| info_span!("below")));
        assert!(exported(0.0, NEVER, work).is_empty());
        assert_eq!(names(&exported(1.0, NEVER, work)), ["below", "above"]);
    }

    #[test]
    fn whoever_began_the_trace_decides() {
        assert!(exported(1.0, NEVER, || drop(info_span!("x", traceparent = ELSEWHERE))).is_empty());
        let ended = exported(0.0, NEVER, || drop(info_span!("x", traceparent = SAMPLED)));
        assert_eq!(ended[0].ids.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(ended[0].recording.parent, Some(0x00f0_67aa_0ba9_02b7));
    }

    #[test]
    fn an_error_keeps_what_is_open_with_it_and_what_follows() {
        let ended = exported(0.0, NEVER, || {
            let above = info_span!("above", traceparent = ELSEWHERE, otel.status_code = field::Empty);
            drop(above.in_scope(|| info_span!("before")));
            assert!(!spans::of(&above).unwrap().sampled);
            let below = above.in_scope(|| info_span!("below", otel.status_code = field::Empty));
            below.record("otel.status_code", "ERROR");
            drop(below);
            assert!(spans::of(&above).unwrap().sampled, "who is called from now on keeps the trace as well");
            // the same trace comes into the process once more while it is open, and again later
            drop(info_span!("meanwhile", traceparent = ELSEWHERE));
            drop(above);
            drop(info_span!("later", traceparent = ELSEWHERE));
            drop(info_span!("other"));
        });
        assert_eq!(names(&ended), ["before", "below", "meanwhile", "above", "later"]);
        assert!(ended.iter().all(|ended| ended.ids.sampled));
        assert_eq!(ended[0].recording.parent, Some(ended[3].ids.span));
    }

    /// An exemplar leads nowhere if its trace is not exported.
    #[test]
    fn what_is_told_to_be_exported_is() {
        let told = |ratio: f64, slow: Duration, make: fn() -> Span| {
            let mut told = None;
            let ended = exported(ratio, slow, || {
                let span = make();
                told = spans::exported(&span);
                drop(span);
            });
            assert_eq!(told, ended.first().map(|ended| ended.ids.trace));
            told.is_some()
        };
        assert!(told(1.0, NEVER, || info_span!("sampled")));
        assert!(!told(0.0, NEVER, || info_span!("healthy")));
        assert!(told(0.0, Duration::from_nanos(1), || info_span!("slow")));
        assert!(!told(0.0, Duration::from_nanos(1), || info_span!("watch", stream = true)));
        assert!(told(0.0, NEVER, || info_span!("failed", otel.status_code = "ERROR")));
        assert!(!told(0.0, Duration::ZERO, || info_span!("failed", otel.status_code = "ERROR")));
        assert!(!told(1.0, NEVER, Span::none));
    }

    #[test]
    fn a_slow_span_keeps_its_trace_and_a_long_stream_does_not() {
        let slow = Duration::from_nanos(1);
        assert_eq!(names(&exported(0.0, slow, || drop(info_span!("slow")))), ["slow"]);
        assert!(exported(0.0, slow, || drop(info_span!("watch", stream = true))).is_empty());
        let failed = || info_span!("failed", otel.status_code = "ERROR");
        assert!(exported(0.0, Duration::ZERO, || drop(failed())).is_empty(), "zero keeps nothing");
    }

    #[test]
    fn memory_is_bounded_and_nobody_waits() {
        let wide = || {
            let _above = info_span!("above").entered();
            (0..2 * GROUP).for_each(|_| drop(info_span!("below")));
            info_span!("worst", otel.status_code = "ERROR");
        };
        let ended = exported(0.0, NEVER, wide);
        assert_eq!(ended.len(), 64, "as many as the queue holds");
        let many = || {
            let above: Vec<Span> = (0..2 * WAITING / GROUP).map(|_| info_span!(parent: None, "above")).collect();
            above.iter().for_each(|above| (0..GROUP).for_each(|_| drop(info_span!(parent: above, "below"))));
        };
        assert!(exported(0.0, NEVER, many).is_empty());
    }

    #[test]
    fn a_batch_is_linked_to_each_of_its_spans() {
        let ended = exported(1.0, NEVER, || {
            let (one, other) = (info_span!("one"), info_span!("other"));
            let batch = info_span!(parent: None, "batch", sampled = true);
            for span in [&one, &other] {
                batch.follows_from(span);
            }
        });
        let batch = ended.iter().find(|ended| ended.recording.name == "batch").unwrap();
        let of = |name: &str| ended.iter().find(|ended| ended.recording.name == name).unwrap().ids;
        assert_eq!(batch.recording.links, [of("one"), of("other")]);
    }
}
