//! Histograms whose buckets name a trace: the last one that was counted there and will be exported.

use super::{Kind, Series};
use crate::telemetry;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder},
    metrics::{MetricType, exemplar::HistogramWithExemplars},
};
use std::{
    fmt,
    time::{Duration, SystemTime},
};
use tracing::Span;

/// Buckets of histograms in seconds.
const SECONDS: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Buckets of histograms in items.
const ITEMS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Counts by size. A bucket keeps one exemplar, which takes some sixty bytes.
#[derive(Clone)]
pub struct Histogram(HistogramWithExemplars<Trace>);

impl Histogram {
    /// Notes a size, in the unit of the metric's name.
    pub fn record(&self, size: f64) {
        self.0.observe(size, None, None);
    }

    /// Notes how long something took that was part of the current span.
    pub fn took(&self, time: Duration) {
        // to ask for the current span costs more than all the rest
        if telemetry::exporting() { self.took_in(time, &Span::current()) } else { self.record(time.as_secs_f64()) }
    }

    /// Notes how long something took that was part of this span.
    pub fn took_in(&self, time: Duration, span: &Span) {
        let trace = telemetry::exported(span).map(Trace);
        let at = trace.as_ref().map(|_| SystemTime::now());
        self.0.observe(time.as_secs_f64(), trace, at);
    }
}

impl Series for Histogram {
    const KIND: Kind = Kind::Histogram;

    fn new(metric: &str) -> Self {
        let buckets = if metric.ends_with("_items") { ITEMS } else { SECONDS };
        Self(HistogramWithExemplars::new(buckets.iter().copied()))
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, encoder: MetricEncoder) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// The id of a trace, written out only when somebody asks.
#[derive(Debug)]
struct Trace(u128);

impl EncodeLabelSet for Trace {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        [("trace_id", format!("{:032x}", self.0))].encode(encoder)
    }
}
