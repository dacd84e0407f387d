//! What is told when somebody asks.

use super::{About, process};
use prometheus_client::{
    encoding::text,
    registry::{Metric, Registry},
};
use std::{
    fmt::Write as _,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

type Sampler = Box<dyn Fn() -> bool + Send>;

static SAMPLERS: Mutex<Vec<Sampler>> = Mutex::new(Vec::new());
static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(|| {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(process::Process));
    Mutex::new(registry)
});

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Prometheus' own text form, 0.0.4, which knows no exemplars.
    Classic,
    /// OpenMetrics 1.0.0: histograms of what took time name traces.
    Open,
}

impl Form {
    /// The best form for who sends this `Accept` header; the classic one for who does not say.
    pub fn accepted(accept: &str) -> Self {
        let open = |range: &str| range.split(';').next().is_some_and(|kind| kind.trim() == "application/openmetrics-text");
        if accept.split(',').any(open) { Self::Open } else { Self::Classic }
    }

    /// The media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The registry adds the full stop of the help and the ending of counters by itself.
pub(super) fn register(about: &About, metric: impl Metric) {
    lock(&REGISTRY).register(family(about), about.help.trim().trim_end_matches('.'), metric);
}

/// The name without the ending that OpenMetrics leaves to samples.
pub(super) fn family(about: &About) -> &'static str {
    about.name.strip_suffix("_total").unwrap_or(about.name)
}

/// Has `look` run before each scrape, to set gauges from what is at hand; it must not wait. When it says false it is forgotten.
pub fn sample(look: impl Fn() -> bool + Send + 'static) {
    lock(&SAMPLERS).push(Box::new(look));
}

/// All metrics.
pub fn render(form: Form) -> String {
    lock(&SAMPLERS).retain(|look| look());
    let mut open = String::new();
    text::encode(&mut open, &lock(&REGISTRY)).expect("text can be written to");
    if form == Form::Open { open } else { classic(&open) }
}

/// The classic form of a text in the open one: counters keep their ending everywhere, there are no exemplars and no end.
fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = "";
    for line in open.lines() {
        if let Some(about) = line.strip_prefix("# HELP ") {
            help = about.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(about) = line.strip_prefix("# TYPE ") {
            let (name, kind) = about.split_once(' ').expect("a type has a name");
            let ending = if kind == "counter" { "_total" } else { "" };
            write!(text, "# HELP {name}{ending} {help}\n# TYPE {name}{ending} {kind}\n").expect("text can be written to");
        } else if line != "# EOF" {
            // no label's value holds a bare quotation mark, so this is found in exemplars alone
            let sample = line.split(" # {trace_id=\"").next().unwrap_or(line);
            text.extend([sample, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_is_answered_in_the_form_that_has_exemplars() {
        let asks = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                    text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Form::accepted(asks), Form::Open);
        for asks in ["", "*/*", "text/plain;version=0.0.4", "application/openmetrics"] {
            assert_eq!(Form::accepted(asks), Form::Classic, "{asks}");
        }
    }

    #[test]
    fn the_classic_form_has_no_exemplars_and_keeps_the_names_of_counters() {
        let open = "# HELP a_calls Calls.\n# TYPE a_calls counter\na_calls_total{code=\"# {trace_id=\\\"\"} 1\n\
                    # HELP a_seconds Took.\n# TYPE a_seconds histogram\na_seconds_sum 0.5\na_seconds_count 1\n\
                    a_seconds_bucket{le=\"+Inf\"} 1 # {trace_id=\"4bf9\"} 0.5 1700000000.5\n# EOF\n";
        let wanted = "# HELP a_calls_total Calls.\n# TYPE a_calls_total counter\na_calls_total{code=\"# {trace_id=\\\"\"} 1\n\
                      # HELP a_seconds Took.\n# TYPE a_seconds histogram\na_seconds_sum 0.5\na_seconds_count 1\n\
                      a_seconds_bucket{le=\"+Inf\"} 1\n";
        assert_eq!(classic(open), wanted);
    }
}
