//! Gives every span of ours its place in a trace, and records the spans that are, or may be, exported.
//!
//! Without an exporter a span has ids, for logs, calls and events, and nothing else. Fields with a meaning of their own: `traceparent` is the
//! parent from elsewhere, `sampled` decides for a trace that begins here, `role` the service that the span and all below it belong to, `otel.name`, `otel.kind` and `otel.status_code` are
//! what OpenTelemetry calls so, `stream` says that a long life is no fault. All others become attributes.

use super::{
    TraceParent,
    keep::{Group, Recorder},
};
use opentelemetry_proto::tonic::{common::v1::any_value::Value, trace::v1::span::SpanKind};
use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tracing::{
    Span, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Record},
};
use tracing_subscriber::{
    Layer, Registry,
    layer::Context,
    registry::{LookupSpan, SpanData as _},
};

/// Links of one span at most.
const LINKS: usize = 256;

/// The layer; without a recorder nothing is exported.
pub(super) struct Spans(pub(super) Option<Arc<Recorder>>);

/// What is known of a span that may be exported.
pub(super) struct Recording {
    pub(super) parent: Option<u64>,
    pub(super) role: Option<Arc<str>>,
    pub(super) name: Cow<'static, str>,
    pub(super) kind: SpanKind,
    pub(super) began: Duration,
    pub(super) fields: Vec<(&'static str, Value)>,
    pub(super) links: Vec<TraceParent>,
    pub(super) failed: bool,
    pub(super) stream: bool,
    /// The spans it is kept or forgotten with; none when it is sampled.
    pub(super) group: Option<Arc<Group>>,
}

/// The time since 1970.
pub(super) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &tracing::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let Given { parent: remote, sampled } = Given::by(attributes);
        let mut inherited = None;
        let local = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            inherited = extensions.get::<Recording>().map(|above| (above.role.clone(), above.group.clone()));
            extensions.get::<TraceParent>().copied()
        });
        let parent = remote.or(local);
        let recorder = self.0.as_deref();
        let samples = |trace| recorder.is_some_and(|recorder| sampled.unwrap_or_else(|| recorder.samples(trace)));
        let ids = parent.map_or_else(|| TraceParent::root(samples), TraceParent::child);
        if let Some(recorder) = recorder.filter(|recorder| ids.sampled || recorder.keeps()) {
            let (role, above) = inherited.unwrap_or_default();
            let above = above.filter(|group| remote.is_none() && group.trace() == ids.trace);
            let group = if ids.sampled { None } else { above.or_else(|| Some(recorder.group(ids.trace))) };
            let mut recording = Recording {
                parent: parent.map(|parent| parent.span),
                role,
                name: Cow::Borrowed(attributes.metadata().name()),
                kind: SpanKind::Internal,
                began: now(),
                fields: Vec::with_capacity(8),
                links: Vec::new(),
                failed: false,
                stream: false,
                group,
            };
            attributes.record(&mut recording);
            span.extensions_mut().insert(recording);
        }
        span.extensions_mut().insert(ids);
    }

    fn on_record(&self, id: &tracing::Id, values: &Record<'_>, ctx: Context<'_, S>) {
        if self.0.is_some()
            && let Some(span) = ctx.span(id)
            && let Some(recording) = span.extensions_mut().get_mut::<Recording>()
        {
            values.record(recording);
        }
    }

    fn on_follows_from(&self, id: &tracing::Id, cause: &tracing::Id, ctx: Context<'_, S>) {
        if self.0.is_some()
            && let (Some(span), Some(cause)) = (ctx.span(id), ctx.span(cause))
            && let Some(link) = cause.extensions().get::<TraceParent>().copied()
            && let Some(recording) = span.extensions_mut().get_mut::<Recording>()
        {
            recording.link(link);
        }
    }

    fn on_close(&self, id: tracing::Id, ctx: Context<'_, S>) {
        let Some(recorder) = self.0.as_deref() else { return };
        let Some(span) = ctx.span(&id) else { return };
        let mut extensions = span.extensions_mut();
        if let Some(recording) = extensions.remove::<Recording>()
            && let Some(ids) = extensions.get_mut::<TraceParent>().copied()
        {
            drop(extensions);
            recorder.ended(ids, recording);
        }
    }
}

/// What a span says of its own place.
#[derive(Default)]
struct Given {
    parent: Option<TraceParent>,
    sampled: Option<bool>,
}

impl Given {
    /// Bad text is ignored, as the standard demands.
    fn by(attributes: &Attributes<'_>) -> Self {
        let mut given = Self::default();
        let known = attributes.metadata().fields();
        if known.field("traceparent").or_else(|| known.field("sampled")).is_some() {
            attributes.record(&mut given);
        }
        given
    }
}

impl Visit for Given {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "traceparent" {
            self.parent = value.parse().ok();
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "sampled" {
            self.sampled = Some(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl Recording {
    /// Whether it would be kept if it ended at `now`, though it is not sampled.
    fn kept(&self, now: Duration) -> bool {
        self.group.as_ref().is_some_and(|group| group.kept() || self.failed || (!self.stream && group.slow(self.began, now)))
    }

    fn link(&mut self, to: TraceParent) {
        if self.links.len() < LINKS {
            self.links.push(to);
        }
    }

    fn attribute(&mut self, name: &'static str, value: Value) {
        match self.fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.fields.push((name, value)),
        }
    }
}

impl Visit for Recording {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.attribute(field.name(), Value::DoubleValue(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.attribute(field.name(), Value::IntValue(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.attribute(field.name(), Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        match field.name() {
            "stream" => self.stream = value,
            "sampled" => {}
            name => self.attribute(name, Value::BoolValue(value)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "traceparent" => {}
            "role" => self.role = Some(value.into()),
            "otel.name" => self.name = Cow::Owned(value.to_owned()),
            "otel.status_code" => self.failed = value == "ERROR",
            "otel.kind" => {
                self.kind = match value {
                    "server" => SpanKind::Server,
                    "client" => SpanKind::Client,
                    "producer" => SpanKind::Producer,
                    "consumer" => SpanKind::Consumer,
                    _ => SpanKind::Internal,
                }
            }
            name => self.attribute(name, Value::StringValue(value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// The place of a span in its trace. When the trace is to be kept for an error, whoever is called from here is told to keep it as well.
pub(super) fn of(span: &Span) -> Option<TraceParent> {
    let ids = |(id, dispatch): (&tracing::Id, &tracing::Dispatch)| {
        let data = dispatch.downcast_ref::<Registry>()?.span_data(id)?;
        let extensions = data.extensions();
        let ids = extensions.get::<TraceParent>().copied()?;
        let kept = extensions.get::<Recording>().and_then(|recording| recording.group.as_ref()).is_some_and(|group| group.kept());
        Some(TraceParent { sampled: ids.sampled || kept, ..ids })
    };
    span.with_subscriber(ids).flatten()
}

/// The trace of a span that will be exported: it is sampled, or kept already, or this span is a reason to keep it.
pub(super) fn exported(span: &Span) -> Option<u128> {
    let trace = |(id, dispatch): (&tracing::Id, &tracing::Dispatch)| {
        let data = dispatch.downcast_ref::<Registry>()?.span_data(id)?;
        let extensions = data.extensions();
        let ids = extensions.get::<TraceParent>()?;
        let worth = || extensions.get::<Recording>().is_some_and(|recording| recording.kept(now()));
        (ids.sampled || worth()).then_some(ids.trace)
    };
    span.with_subscriber(trace).flatten()
}

/// The role that a recorded span belongs to.
pub(super) fn role(span: &Span) -> Option<Arc<str>> {
    let mut role = None;
    with_recording(span, |recording| role = recording.role.clone());
    role
}

/// Changes what is recorded of a span, if anything is.
fn with_recording(span: &Span, change: impl FnOnce(&mut Recording)) {
    span.with_subscriber(|(id, dispatch)| {
        if let Some(data) = dispatch.downcast_ref::<Registry>().and_then(|registry| registry.span_data(id))
            && let Some(recording) = data.extensions_mut().get_mut::<Recording>()
        {
            change(recording);
        }
    });
}

/// Adds an attribute that the span was not made with.
pub(super) fn note(span: &Span, name: &'static str, value: String) {
    with_recording(span, |recording| recording.attribute(name, Value::StringValue(value)));
}

/// Adds a link.
pub(super) fn link(span: &Span, to: TraceParent) {
    with_recording(span, |recording| recording.link(to));
}
