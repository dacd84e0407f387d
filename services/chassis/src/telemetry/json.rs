//! Log lines: one JSON object each, on standard error, with the ids of trace and span.

use super::TraceParent;
use serde_json::{Map, Value};
use std::{fmt, io::Write as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// The layer.
pub(super) struct JsonLog;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JsonLog {
    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut fields = Fields(Map::new());
        let meta = event.metadata();
        let now = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        for (name, value) in [("time", now.as_str()), ("level", meta.level().as_str()), ("target", meta.target())] {
            fields.0.insert(name.to_owned(), value.into());
        }
        event.record(&mut fields);
        if let Some(mut scope) = ctx.event_scope(event)
            && let Some(ids) = scope.find_map(|span| span.extensions().get::<TraceParent>().copied())
        {
            fields.0.insert("trace_id".to_owned(), ids.trace_id().into());
            fields.0.insert("span_id".to_owned(), ids.span_id().into());
        }
        let mut line = Value::Object(fields.0).to_string();
        line.push('\n');
        // Nobody can be told that standard error is gone.
        drop(std::io::stderr().lock().write_all(line.as_bytes()));
    }
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}
