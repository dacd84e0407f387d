//! Metrics: each is defined once, with its labels and its help text, and can be written in no other way.
//!
//! A crate lists its metrics with [`define_metrics!`](crate::define_metrics); `docs/metrics.md` is made of these lists. Names are
//! `mercato_<area>_<what>_<unit>`, counters end in `_total`, units are seconds, bytes and items. Label values must be few: names of our own,
//! never ids. A metric finds the series it has written before without allocating.

mod defined;
mod process;
mod reference;

pub use defined::*;
pub use process::DEFINED as PROCESS;
pub use reference::reference;

pub use metrics::{Counter, Gauge, Histogram};
use metrics::{Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{LazyLock, Mutex, OnceLock, PoisonError, RwLock},
    time::Duration,
};

/// Buckets of histograms in seconds.
const SECONDS: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Buckets of histograms in items.
const ITEMS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// Series of one metric at most; what comes after them is counted under `other`, so that a mistake cannot fill the memory.
const MOST: usize = 2000;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// The name Prometheus has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The definition of a metric.
#[derive(Debug)]
pub struct About {
    /// Its name, with the unit.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence for who looks at it.
    pub help: &'static str,
}

/// The writing end of a series: [`Counter`], [`Gauge`] or [`Histogram`].
pub trait Series: Clone + Send + Sync + 'static {
    /// What it is.
    const KIND: Kind;
    /// Makes the series known.
    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self;
}

const META: Metadata<'static> = Metadata::new("mercato", Level::INFO, None);

impl Series for Counter {
    const KIND: Kind = Kind::Counter;

    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_counter(key, &META)
    }
}

impl Series for Gauge {
    const KIND: Kind = Kind::Gauge;

    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_gauge(key, &META)
    }
}

impl Series for Histogram {
    const KIND: Kind = Kind::Histogram;

    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self {
        recorder.register_histogram(key, &META)
    }
}

/// A metric with `N` labels. Made by [`define_metrics!`](crate::define_metrics) alone.
pub struct Family<S: Series, const N: usize> {
    /// Its definition.
    pub about: About,
    known: OnceLock<Known<S, N>>,
}

/// Series and their label values, by the hash of these.
type Written<S, const N: usize> = HashMap<u64, Vec<([String; N], S)>>;

/// The series written so far.
struct Known<S, const N: usize> {
    hasher: RandomState,
    series: RwLock<Written<S, N>>,
}

impl<S: Series, const N: usize> Family<S, N> {
    #[doc(hidden)]
    pub const fn new(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        assert!(labels.len() == N, "a value for each label");
        Self { about: About { name, kind: S::KIND, labels, help }, known: OnceLock::new() }
    }

    /// The series with these label values, in the order of the labels; to be kept where it is written often.
    pub fn of(&self, values: [&str; N]) -> S {
        let known = self.known.get_or_init(|| {
            describe(&self.about);
            Known { hasher: RandomState::new(), series: RwLock::default() }
        });
        let hash = known.hasher.hash_one(values);
        {
            let series = known.series.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = find(&series, hash, &values) {
                return found;
            }
        }
        let mut series = known.series.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = find(&series, hash, &values) {
            return found;
        }
        let full = series.len() >= MOST;
        let values = if full { ["other"; N] } else { values };
        let labels = self.about.labels.iter().zip(values).map(|(name, value)| Label::new(*name, value.to_owned())).collect::<Vec<_>>();
        let made = S::register(&RECORDER, &Key::from_parts(self.about.name, labels));
        if !full {
            series.entry(hash).or_default().push((values.map(str::to_owned), made.clone()));
        }
        made
    }
}

fn find<S: Series, const N: usize>(series: &Written<S, N>, hash: u64, values: &[&str; N]) -> Option<S> {
    let same = |known: &[String; N]| known.iter().zip(values).all(|(known, value)| known == value);
    series.get(&hash)?.iter().find(|(known, _)| same(known)).map(|(_, found)| found.clone())
}

impl<const N: usize> Family<Counter, N> {
    /// Counts one.
    pub fn one(&self, values: [&str; N]) {
        self.of(values).increment(1);
    }

    /// Counts `n`.
    pub fn add(&self, values: [&str; N], n: u64) {
        self.of(values).increment(n);
    }
}

impl<const N: usize> Family<Gauge, N> {
    /// Says how much there is.
    pub fn set(&self, values: [&str; N], value: f64) {
        self.of(values).set(value);
    }
}

impl<const N: usize> Family<Histogram, N> {
    /// Notes a size.
    pub fn record(&self, values: [&str; N], size: f64) {
        self.of(values).record(size);
    }

    /// Notes how long something took.
    pub fn took(&self, values: [&str; N], time: Duration) {
        self.of(values).record(time.as_secs_f64());
    }
}

/// Defines metrics, each as a static, and the list `ALL` of their definitions. The comment is the help text.
///
/// ```
/// mercato_chassis::define_metrics! {
///     /// Doors opened, by who opened them.
///     Counter OPENED = "mercato_door_opened_total" ["who"];
///     /// Doors open now.
///     Gauge OPEN = "mercato_door_open" [];
/// }
/// OPENED.one(["cat"]);
/// OPEN.set([], 1.0);
/// assert_eq!(ALL.len(), 2);
/// ```
#[macro_export]
macro_rules! define_metrics {
    ($( $(#[doc = $help:literal])+ $kind:ident $name:ident = $metric:literal [$($label:literal),*]; )*) => {
        $(
            $(#[doc = $help])+
            pub static $name: $crate::metrics::Family<$crate::metrics::$kind, { $crate::metrics::count(&[$($label),*]) }> =
                $crate::metrics::Family::new($metric, &[$($label),*], concat!($($help),+));
        )*
        /// The definitions of this crate's metrics.
        pub static ALL: &[&$crate::metrics::About] = &[$(&$name.about),*];
    };
}

#[doc(hidden)]
pub const fn count(labels: &[&str]) -> usize {
    labels.len()
}

static RECORDER: LazyLock<PrometheusRecorder> = LazyLock::new(|| {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_items".into()), ITEMS))
        .expect("the bucket lists are not empty")
        .build_recorder()
});

fn describe(about: &About) {
    let help = about.help.trim().into();
    match about.kind {
        Kind::Counter => RECORDER.describe_counter(about.name.into(), None, help),
        Kind::Gauge => RECORDER.describe_gauge(about.name.into(), None, help),
        Kind::Histogram => RECORDER.describe_histogram(about.name.into(), None, help),
    }
}

type Sampler = Box<dyn Fn() -> bool + Send>;
static SAMPLERS: Mutex<Vec<Sampler>> = Mutex::new(Vec::new());

/// Has `look` run before each scrape, to set gauges from what is at hand; it must not wait. When it says false it is forgotten.
pub fn sample(look: impl Fn() -> bool + Send + 'static) {
    SAMPLERS.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(look));
}

/// All metrics in the text form of Prometheus.
pub fn render() -> String {
    SAMPLERS.lock().unwrap_or_else(PoisonError::into_inner).retain(|look| look());
    let mut text = RECORDER.handle().render();
    process::render(&mut text);
    text
}

/// Folds what was recorded into the buckets; call it every few seconds.
pub fn upkeep() {
    RECORDER.handle().run_upkeep();
}

#[cfg(test)]
mod tests {
    use super::*;

    define_metrics! {
        /// Something with two labels,
        /// told in two lines.
        Counter SEEN = "mercato_test_seen_total" ["who", "what"];
        /// How long it took.
        Histogram TOOK = "mercato_test_took_seconds" [];
        /// Grows without a bound, by mistake.
        Counter WILD = "mercato_test_wild_total" ["id"];
    }

    #[test]
    fn a_series_is_found_again_and_described_once() {
        SEEN.one(["a", "b"]);
        SEEN.add(["a", "b"], 2);
        SEEN.one(["ab", ""]);
        TOOK.took([], Duration::from_millis(3));
        upkeep();
        let text = render();
        assert!(text.contains("mercato_test_seen_total{who=\"a\",what=\"b\"} 3\n"), "{text}");
        assert!(text.contains("mercato_test_seen_total{who=\"ab\",what=\"\"} 1\n"), "{text}");
        assert!(text.contains("# HELP mercato_test_seen_total Something with two labels, told in two lines.\n"), "{text}");
        assert!(text.contains("mercato_test_took_seconds_bucket{le=\"0.005\"} 1\n"), "{text}");
        assert_eq!(text.matches("# TYPE mercato_test_seen_total ").count(), 1);
        assert_eq!(ALL.len(), 3);
    }

    #[test]
    fn labels_without_a_bound_end_under_other() {
        (0..MOST + 10).for_each(|id| WILD.one([&id.to_string()]));
        assert!(render().contains("mercato_test_wild_total{id=\"other\"} 10\n"));
    }

    #[test]
    fn what_is_gone_is_not_sampled() {
        let (told, gone) = std::sync::mpsc::channel();
        sample(move || told.send(()).is_err());
        render();
        drop(render());
        assert_eq!(gone.try_iter().count(), 1, "the first answer was false");
    }
}
