//! Logs, metrics and traces.
//!
//! Every call has a trace id, exported or not: it is in each log line, in internal errors, in outgoing calls and in events, always in the
//! form of W3C Trace Context. Spans are exported only when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, and cost little otherwise.

mod ids;
mod json;
mod relevant;
mod trace_parent;

pub use trace_parent::TraceParent;

use crate::config::Source;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::{SpanContext, TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use std::{sync::OnceLock, time::Duration};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{
    Layer as _, Registry,
    filter::{Targets, filter_fn},
    layer::SubscriberExt as _,
};

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
static EXPORT: OnceLock<SdkTracerProvider> = OnceLock::new();

const LATENCY: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const SIZES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// What to log and whether to export.
pub struct Settings {
    log: String,
    endpoint: Option<String>,
    name: String,
}

impl Settings {
    /// Reads the settings; `name` is the `service.name` of exported spans.
    pub fn read(source: &mut Source, name: String) -> Self {
        let log = source.string("MERCATO_LOG", "info,sqlx=warn,librdkafka=warn", "log filter: level, or target=level, with commas");
        let endpoint = source.optional("OTEL_EXPORTER_OTLP_ENDPOINT", "where traces are exported to by otlp over grpc; absent: nowhere");
        if let Err(error) = log.parse::<Targets>() {
            source.refuse("MERCATO_LOG", error);
        }
        Self { log, endpoint, name }
    }
}

/// Starts logs, metrics and, when wanted, the export of traces; inside the tokio runtime, once a process: later calls change nothing.
///
/// # Errors
/// A bad filter or endpoint, as text.
pub fn init(settings: &Settings) -> Result<(), String> {
    METRICS.get_or_init(install_metrics);
    let filter: Targets = settings.log.parse().map_err(|e: tracing_subscriber::filter::ParseError| e.to_string())?;
    let export = match &settings.endpoint {
        None => None,
        Some(endpoint) => {
            let provider = exporter(endpoint, &settings.name)?;
            let spans_only = filter_fn(|meta| meta.is_span());
            let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("mercato")).with_filter(spans_only);
            Some((provider, layer))
        }
    };
    let (provider, layer) = export.unzip();
    let subscriber = Registry::default().with(ids::SpanIds).with(layer).with(json::JsonLog).with(relevant::Relevant::new(filter));
    if tracing::subscriber::set_global_default(subscriber).is_ok()
        && let Some(provider) = provider
    {
        // Only the one who installed the subscriber gets here.
        EXPORT.get_or_init(|| provider);
    }
    Ok(())
}

fn install_metrics() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), LATENCY)
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_size".into()), SIZES))
        .expect("the bucket lists are not empty")
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("another metrics recorder is installed already");
    }
    handle
}

fn exporter(endpoint: &str, name: &str) -> Result<SdkTracerProvider, String> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(Duration::from_secs(3))
        .build()
        .map_err(|e| format!("OTEL_EXPORTER_OTLP_ENDPOINT: {e}"))?;
    let resource = Resource::builder().with_service_name(name.to_owned()).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// Puts panics into the log like any other error. For programs, not for tests, whose harness has a hook of its own.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(panic = text, place, "panic");
    }));
}

/// All metrics in the text form of Prometheus.
pub fn render_metrics() -> String {
    METRICS.get().map(PrometheusHandle::render).unwrap_or_default()
}

/// Lets the metrics forget what is old; call it every few seconds.
pub fn upkeep() {
    if let Some(handle) = METRICS.get() {
        handle.run_upkeep();
    }
}

/// Exports what is left, for three seconds at most.
pub async fn shutdown() {
    let Some(provider) = EXPORT.get() else { return };
    let flush = tokio::task::spawn_blocking(|| provider.shutdown());
    match tokio::time::timeout(Duration::from_secs(3), flush).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "traces were not exported"),
        Ok(Err(error)) => tracing::warn!(%error, "the export of traces panicked"),
        Err(_) => tracing::warn!("the export of traces did not end in time"),
    }
}

/// Where the current span stands in its trace; none outside every span of ours.
pub fn current() -> Option<TraceParent> {
    of(&Span::current())
}

fn of(span: &Span) -> Option<TraceParent> {
    if EXPORT.get().is_some() {
        let context = span.context();
        let spans = context.span();
        let ids = spans.span_context();
        return ids.is_valid().then(|| TraceParent::from_otel(ids));
    }
    ids::of(span)
}

/// The current `traceparent` value, to be sent with calls and stored with events.
pub fn traceparent() -> Option<String> {
    current().map(|ids| ids.to_string())
}

/// The current trace id, 32 hexadecimal digits.
pub fn trace_id() -> Option<String> {
    current().map(|ids| ids.trace_id())
}

/// Makes a span the child of a `traceparent` from elsewhere. Bad text is ignored, as the standard demands. Call it before entering the
/// span.
pub fn set_parent(span: &Span, traceparent: &str) {
    let Ok(parent) = traceparent.parse::<TraceParent>() else { return };
    if EXPORT.get().is_some() {
        let context: SpanContext = parent.to_otel();
        if span.set_parent(opentelemetry::Context::new().with_remote_span_context(context)).is_err() {
            tracing::debug!("the span's parent cannot be set");
        }
    }
    ids::adopt(span, parent);
}
