//! Gives every span of ours its place in a trace, without any exporter.

use super::TraceParent;
use tracing::{Span, Subscriber, span::Attributes};
use tracing_subscriber::{
    Layer, Registry,
    layer::Context,
    registry::{LookupSpan, SpanData as _},
};

/// The layer.
pub(super) struct SpanIds;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for SpanIds {
    fn on_new_span(&self, _: &Attributes<'_>, id: &tracing::Id, ctx: Context<'_, S>) {
        let Some(span) = ctx.span(id) else { return };
        let parent = span.parent().and_then(|parent| parent.extensions().get::<TraceParent>().copied());
        span.extensions_mut().insert(parent.map_or_else(TraceParent::root, TraceParent::child));
    }
}

/// The place of a span in its trace.
pub(super) fn of(span: &Span) -> Option<TraceParent> {
    let ids = |(id, dispatch): (&tracing::Id, &tracing::Dispatch)| {
        let data = dispatch.downcast_ref::<Registry>()?.span_data(id)?;
        data.extensions().get::<TraceParent>().copied()
    };
    span.with_subscriber(ids).flatten()
}

/// Puts a span below a parent from elsewhere.
pub(super) fn adopt(span: &Span, parent: TraceParent) {
    span.with_subscriber(|(id, dispatch)| {
        if let Some(span) = dispatch.downcast_ref::<Registry>().and_then(|registry| registry.span_data(id)) {
            span.extensions_mut().replace(parent.child());
        }
    });
}
