//! One way, measured in a process of its own.

use super::{
    tree::Orders,
    way::{Way, whole},
};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use uuid::Uuid;

mercato_chassis::define_metrics! {
    /// Times of nothing.
    Histogram PROBE = "mercato_bench_probe_seconds" [];
}

/// Orders a second.
pub const PACE: u64 = 400;
/// Orders at once; fewer spans than the export's queue holds.
const BURST: u64 = 30;
const WARM_UP: Duration = Duration::from_secs(1);
/// Measurements of a histogram in one of so many runs, of which the fastest counts.
const PROBES: u32 = 200_000;
const RUNS: u32 = 5;

/// What it came to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    pub orders: u64,
    pub spans: u64,
    /// Spans that had to be exported, those of the warm-up included.
    pub exported: u64,
    cpu_ns: u64,
    /// Only where the chassis records.
    pub histogram: Option<Histogram>,
}

/// One measurement, in nanoseconds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Histogram {
    /// A size, without an exemplar.
    pub bare: f64,
    /// A time, with an exemplar where its span is exported.
    pub traced: f64,
}

impl Report {
    /// Microseconds of CPU for a span.
    pub fn each(&self) -> f64 {
        whole(self.cpu_ns / 1000) / whole(self.spans.max(1))
    }
}

/// Makes orders for `time`, in bursts with pauses, so that the export keeps up.
pub async fn measure(way: Way, endpoint: &str, time: Duration) -> anyhow::Result<Report> {
    let recorder = way.install(endpoint)?;
    let mut orders = Orders::new(&recorder);
    let mut load = Load { way, made: 0, sampled: 0, exported: 0 };
    load.press(&mut orders, WARM_UP).await;
    recorder.flush().await?;
    let (before, spans, made) = (cpu()?, orders.spans, load.made);
    load.press(&mut orders, time).await;
    recorder.flush().await?;
    let cpu_ns = cpu()? - before;
    let histogram = way.ours().then(|| {
        let span = tracing::info_span!("probe", traceparent = load.next(), otel.name = "probe");
        span.in_scope(|| {
            let (probe, time) = (PROBE.of([]), Duration::from_micros(300));
            Histogram { bare: fastest(|| probe.record(0.000_3)), traced: fastest(|| probe.took(time)) }
        })
    });
    Ok(Report { orders: load.made - made, spans: orders.spans - spans, exported: load.exported, cpu_ns, histogram })
}

/// Nanoseconds for one.
fn fastest(mut work: impl FnMut()) -> f64 {
    let run = |_| {
        let began = Instant::now();
        (0..PROBES).for_each(|_| work());
        began.elapsed().as_secs_f64() * 1e9 / f64::from(PROBES)
    };
    (0..RUNS).map(run).fold(f64::INFINITY, f64::min)
}

struct Load {
    way: Way,
    made: u64,
    sampled: u64,
    exported: u64,
}

impl Load {
    /// The `traceparent` that the edge gives the next order.
    fn next(&mut self) -> String {
        let sampled = self.way.sampled().is_some_and(|every| self.made.is_multiple_of(every));
        self.sampled += u64::from(sampled);
        format!("00-{:032x}-{:016x}-{:02x}", Uuid::new_v4().as_u128(), self.made + 1, u8::from(sampled))
    }

    async fn press(&mut self, orders: &mut Orders<'_>, time: Duration) {
        let end = Instant::now() + time;
        let mut ticks = tokio::time::interval(Duration::from_millis(1000 * BURST / PACE));
        // a machine that stalled is not caught up with: the queue could not hold it
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while Instant::now() < end {
            ticks.tick().await;
            for _ in 0..BURST {
                let (sampled, spans) = (self.sampled, orders.spans);
                let (edge, id) = (self.next(), Uuid::now_v7().to_string());
                orders.order(Some(&edge), &id);
                self.made += 1;
                self.exported += if self.sampled > sampled { orders.spans - spans } else { 0 };
            }
        }
    }
}

/// Nanoseconds of CPU that the threads of this process have used.
fn cpu() -> anyhow::Result<u64> {
    let mut all = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // a thread may end meanwhile
        if let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) {
            all += text.split(' ').next().and_then(|used| used.parse::<u64>().ok()).context("/proc/self/task/*/schedstat")?;
        }
    }
    Ok(all)
}
