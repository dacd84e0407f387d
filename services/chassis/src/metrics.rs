//! Metrics: each is defined once, with its labels and its help text, and can be written in no other way.
//!
//! A crate lists its metrics with [`define_metrics!`](crate::define_metrics); `docs/metrics.md` is made of these lists. Names are
//! `mercato_<area>_<what>_<unit>`, counters end in `_total`, units are seconds, bytes and items. Label values must be few: names of our own,
//! never ids. A metric finds the series it has written before without allocating. What took time names the trace it was part of (an exemplar).

mod defined;
mod expose;
mod histogram;
mod process;
mod reference;

pub use defined::*;
pub use process::DEFINED as PROCESS;
pub use reference::reference;

pub use expose::{Form, render, sample};
pub use histogram::Histogram;
/// A number that only grows.
pub type Counter = prometheus_client::metrics::counter::Counter;
/// A number that goes up and down.
pub type Gauge = prometheus_client::metrics::gauge::Gauge<f64, AtomicU64>;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{OnceLock, PoisonError, RwLock, atomic::AtomicU64},
    time::Duration,
};
use tracing::Span;

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

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter,
            Kind::Gauge => Self::Gauge,
            Kind::Histogram => Self::Histogram,
        }
    }
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
pub trait Series: EncodeMetric + Clone + Send + Sync + 'static {
    /// What it is.
    const KIND: Kind;
    /// A series of this metric that nobody has written to.
    fn new(metric: &str) -> Self;
}

impl Series for Counter {
    const KIND: Kind = Kind::Counter;

    fn new(_: &str) -> Self {
        Self::default()
    }
}

impl Series for Gauge {
    const KIND: Kind = Kind::Gauge;

    fn new(_: &str) -> Self {
        Self::default()
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
    pub fn of(&'static self, values: [&str; N]) -> S {
        let known = self.known.get_or_init(|| {
            expose::register(&self.about, Told(self));
            Known { hasher: RandomState::new(), series: RwLock::default() }
        });
        {
            let series = known.series.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = known.find(&series, &values) {
                return found;
            }
        }
        let mut series = known.series.write().unwrap_or_else(PoisonError::into_inner);
        let values = if series.len() < MOST || known.find(&series, &values).is_some() { values } else { ["other"; N] };
        known.find(&series, &values).unwrap_or_else(|| {
            let made = S::new(self.about.name);
            series.entry(known.hasher.hash_one(values)).or_default().push((values.map(str::to_owned), made.clone()));
            made
        })
    }
}

impl<S: Series, const N: usize> Known<S, N> {
    fn find(&self, series: &Written<S, N>, values: &[&str; N]) -> Option<S> {
        let same = |known: &[String; N]| known.iter().zip(values).all(|(known, value)| known == value);
        series.get(&self.hasher.hash_one(values))?.iter().find(|(known, _)| same(known)).map(|(_, found)| found.clone())
    }
}

/// A metric as the registry asks for it.
struct Told<S: Series, const N: usize>(&'static Family<S, N>);

impl<S: Series, const N: usize> fmt::Debug for Told<S, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.about.name)
    }
}

impl<S: Series, const N: usize> EncodeMetric for Told<S, N> {
    fn encode(&self, mut encoder: MetricEncoder) -> fmt::Result {
        let Some(known) = self.0.known.get() else { return Ok(()) };
        let series = known.series.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = series.values().flatten();
        if N == 0 {
            return all.next().map_or(Ok(()), |(_, only)| only.encode(encoder));
        }
        for (values, series) in all {
            let labels: Vec<(&str, &str)> = self.0.about.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            series.encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        self.0.about.kind.into()
    }
}

impl<const N: usize> Family<Counter, N> {
    /// Counts one.
    pub fn one(&'static self, values: [&str; N]) {
        self.of(values).inc();
    }

    /// Counts `n`.
    pub fn add(&'static self, values: [&str; N], n: u64) {
        self.of(values).inc_by(n);
    }
}

impl<const N: usize> Family<Gauge, N> {
    /// Says how much there is.
    pub fn set(&'static self, values: [&str; N], value: f64) {
        self.of(values).set(value);
    }
}

impl<const N: usize> Family<Histogram, N> {
    /// Notes a size.
    pub fn record(&'static self, values: [&str; N], size: f64) {
        self.of(values).record(size);
    }

    /// Notes how long something took that was part of the current span.
    pub fn took(&'static self, values: [&str; N], time: Duration) {
        self.of(values).took(time);
    }

    /// Notes how long something took that was part of this span.
    pub fn took_in(&'static self, values: [&str; N], time: Duration, span: &Span) {
        self.of(values).took_in(time, span);
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
        let text = render(Form::Classic);
        assert!(text.contains("mercato_test_seen_total{who=\"a\",what=\"b\"} 3\n"), "{text}");
        assert!(text.contains("mercato_test_seen_total{who=\"ab\",what=\"\"} 1\n"), "{text}");
        assert!(text.contains("# HELP mercato_test_seen_total Something with two labels, told in two lines.\n"), "{text}");
        assert!(text.contains("mercato_test_took_seconds_bucket{le=\"0.005\"} 1\n"), "{text}");
        assert_eq!(text.matches("# TYPE mercato_test_seen_total counter\n").count(), 1);
        let open = render(Form::Open);
        assert!(open.contains("# TYPE mercato_test_seen counter\n") && open.ends_with("# EOF\n"), "{open}");
        assert_eq!(ALL.len(), 3);
    }

    #[test]
    fn labels_without_a_bound_end_under_other() {
        (0..MOST + 10).for_each(|id| WILD.one([&id.to_string()]));
        assert!(render(Form::Classic).contains("mercato_test_wild_total{id=\"other\"} 10\n"));
    }

    #[test]
    fn what_is_gone_is_not_sampled() {
        let (told, gone) = std::sync::mpsc::channel();
        sample(move || told.send(()).is_err());
        render(Form::Classic);
        drop(render(Form::Open));
        assert_eq!(gone.try_iter().count(), 1, "the first answer was false");
    }
}
