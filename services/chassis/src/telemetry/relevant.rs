//! What is worth a look at all: decided once for each place in the code, so that the rest costs nothing.

use tracing::{Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{Layer, filter::Targets, layer::Context};

/// Lets through the events that are to be logged, and the spans of our own code. One filter for all layers: filters of single layers look
/// every span up again whenever it is entered and left; a fifth of our samples under load were in there.
pub(super) struct Relevant {
    events: Targets,
}

impl Relevant {
    /// `events` says what is logged.
    pub fn new(events: Targets) -> Self {
        Self { events }
    }

    fn lets(&self, meta: &Metadata<'_>) -> bool {
        if meta.is_span() {
            return *meta.level() <= tracing::Level::INFO && meta.target().starts_with("mercato");
        }
        self.events.would_enable(meta.target(), meta.level())
    }
}

impl<S: Subscriber> Layer<S> for Relevant {
    fn register_callsite(&self, meta: &'static Metadata<'static>) -> Interest {
        if self.lets(meta) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, meta: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.lets(meta)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Spans are needed down to this level, however little is logged.
        let events = <Targets as tracing_subscriber::layer::Filter<S>>::max_level_hint(&self.events)?;
        Some(events.max(LevelFilter::INFO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Seen {
        fn on_new_span(&self, attributes: &tracing::span::Attributes<'_>, _: &tracing::Id, _: Context<'_, S>) {
            self.0.lock().unwrap().push(format!("span {}", attributes.metadata().name()));
        }

        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(format!("event {} {}", event.metadata().target(), event.metadata().level()));
        }
    }

    #[test]
    fn spans_of_ours_pass_however_little_is_logged() {
        let seen = Seen::default();
        let subscriber = Registry::default().with(seen.clone()).with(Relevant::new("warn,chatty=off".parse().unwrap()));
        tracing::subscriber::with_default(subscriber, || {
            drop(tracing::info_span!(target: "mercato", "ours"));
            drop(tracing::info_span!(target: "sqlx", "theirs"));
            drop(tracing::debug_span!(target: "mercato", "detail"));
            tracing::info!(target: "mercato", "quiet");
            tracing::warn!(target: "mercato", "loud");
            tracing::error!(target: "chatty", "never");
        });
        assert_eq!(*seen.0.lock().unwrap(), ["span ours", "event mercato WARN"]);
    }
}
