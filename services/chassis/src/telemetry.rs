//! Logs and traces.
//!
//! Every call has a trace id, exported or not: it is in each log line, in internal errors, in outgoing calls and in events, always in the
//! form of W3C Trace Context. Spans are exported only when `OTEL_EXPORTER_OTLP_ENDPOINT` is set, and cost little otherwise.

mod export;
mod json;
mod keep;
mod relevant;
mod settings;
mod spans;
mod trace_parent;

pub use settings::{Settings, ratio};
pub use trace_parent::TraceParent;

use export::{Exporter, Flush};
use keep::Recorder;
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use tracing::Span;
use tracing_subscriber::{Registry, filter::Targets, layer::SubscriberExt as _};

/// The way to the exporter; empty when nothing is exported.
static EXPORT: OnceLock<mpsc::Sender<Flush>> = OnceLock::new();

/// Starts logs and, when wanted, the export of traces; inside the tokio runtime, once a process: later calls change nothing.
///
/// # Errors
/// A bad filter or endpoint, as text.
pub fn init(settings: &Settings) -> Result<(), String> {
    let filter: Targets = settings.log.parse().map_err(|e: tracing_subscriber::filter::ParseError| e.to_string())?;
    let plan = settings.plan()?;
    let (queue, ended) = mpsc::channel(settings.queue);
    let recorder = plan.is_some().then(|| Arc::new(Recorder::new(queue, settings.ratio, settings.slow)));
    let subscriber = Registry::default().with(spans::Spans(recorder)).with(json::JsonLog).with(relevant::Relevant::new(filter));
    if tracing::subscriber::set_global_default(subscriber).is_ok()
        && let Some(plan) = plan
    {
        // Only the one who installed the subscriber gets here.
        let (flush, flushes) = mpsc::channel(1);
        EXPORT.get_or_init(|| flush);
        tokio::spawn(Exporter::new(plan).run(ended, flushes));
    }
    Ok(())
}

/// Puts panics into the log like any other error. For programs, not for tests, whose harness has a hook of its own.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("no text");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(panic = text, place, "panic");
    }));
}

/// Exports what is left, for three seconds at most.
pub async fn shutdown() {
    let Some(export) = EXPORT.get() else { return };
    let (done, told) = oneshot::channel();
    let flush = async { export.send(done).await.is_ok() && told.await.is_ok() };
    match tokio::time::timeout(Duration::from_secs(3), flush).await {
        Ok(true) => {}
        Ok(false) => tracing::warn!("the export of traces has ended before"),
        Err(_) => tracing::warn!("the export of traces did not end in time"),
    }
}

/// Whether spans are exported; what only they need is not worth making otherwise.
pub fn exporting() -> bool {
    EXPORT.get().is_some()
}

/// Where the current span stands in its trace; none outside every span of ours.
pub fn current() -> Option<TraceParent> {
    spans::of(&Span::current())
}

/// The current `traceparent` value, to be sent with calls and stored with events.
pub fn traceparent() -> Option<String> {
    current().map(|ids| ids.to_string())
}

/// The `traceparent` value of a span of ours; none when it has none.
pub fn traceparent_of(span: &Span) -> Option<String> {
    spans::of(span).map(|ids| ids.to_string())
}

/// The current trace id, 32 hexadecimal digits.
pub fn trace_id() -> Option<String> {
    current().map(|ids| ids.trace_id())
}

/// The trace of a span, if it is known by now that it will be exported.
pub(crate) fn exported(span: &Span) -> Option<u128> {
    exporting().then(|| spans::exported(span)).flatten()
}

/// Notes something about the current span, such as `mercato.order_id`, when spans are exported. Never personal data or secrets.
pub fn note(name: &'static str, value: impl std::fmt::Display) {
    if exporting() {
        spans::note(&Span::current(), name, value.to_string());
    }
}

/// Says that a span has to do with another one, of whatever trace; what is no `traceparent` is ignored.
pub fn link(span: &Span, traceparent: &str) {
    if exporting()
        && let Ok(to) = traceparent.parse()
    {
        spans::link(span, to);
    }
}

/// The span for `what` is done for several spans at once: the span itself when it is one alone; for more a trace of its own, linked both ways,
/// which is sampled when one of them is. None when nothing is exported.
pub fn together<'s>(what: &str, spans: impl IntoIterator<Item = &'s Span>) -> Span {
    if !exporting() {
        return Span::none();
    }
    let spans: Vec<&Span> = spans.into_iter().filter(|span| !span.is_none()).collect();
    if let [] | [_] = spans[..] {
        return spans.first().map_or_else(Span::none, |span| (*span).clone());
    }
    let role = spans.iter().find_map(|span| spans::role(span));
    let sampled = spans.iter().any(|span| spans::of(span).is_some_and(|ids| ids.sampled));
    let batch = tracing::info_span!(target: "mercato", parent: None, "batch", otel.name = %format_args!("batch {what}"),
        role = role.as_deref(), sampled,
        mercato.batch.size = spans.len(), otel.status_code = tracing::field::Empty);
    for span in spans {
        batch.follows_from(span);
        span.follows_from(&batch);
    }
    batch
}
