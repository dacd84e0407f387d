//! The admin HTTP server: metrics and probes. Never routed by the edge.

use crate::metrics::{self, Form};
use axum::{
    Router,
    http::{HeaderMap, StatusCode, header},
    routing::get,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Whether the process wants requests.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// Says whether requests are wanted.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// Whether requests are wanted.
    pub fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// `/metrics` (OpenMetrics with exemplars for who accepts it, otherwise Prometheus' text form), `/livez` (the process runs), `/readyz` (503 while starting and stopping).
pub fn router(ready: Ready) -> Router {
    let readyz =
        move || async move { if ready.is() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") } };
    let scrape = |headers: HeaderMap| async move {
        let form = Form::accepted(headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default());
        ([(header::CONTENT_TYPE, form.content_type())], metrics::render(form))
    };
    Router::new().route("/metrics", get(scrape)).route("/livez", get(|| async { "alive\n" })).route("/readyz", get(readyz))
}
