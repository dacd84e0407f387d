//! The admin HTTP server: metrics and probes. Never routed by the edge.

use crate::{
    error::Fault,
    metrics::{self, Form},
};
use axum::{
    Router,
    http::{HeaderMap, Method, Request, StatusCode, header},
    routing::get,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
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

/// What the admin server of a process answers, or Envoy's, at `http://host:port/path`.
///
/// # Errors
/// [`Fault::Unavailable`] for an address that is none, and when there is no whole answer in this time.
pub async fn ask(method: Method, url: &str, patience: Duration) -> Result<(StatusCode, Bytes), Fault> {
    let unavailable = |detail: String| Fault::Unavailable { peer: url.to_owned(), detail };
    let request = Request::builder().method(method).uri(url).body(Empty::<Bytes>::new()).map_err(|e| unavailable(e.to_string()))?;
    let asking = async {
        let answer = Client::builder(TokioExecutor::new()).build_http().request(request).await.map_err(|e| unavailable(causes(&e)))?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(|e| unavailable(causes(&e)))?;
        Ok((status, body.to_bytes()))
    };
    tokio::time::timeout(patience, asking).await.unwrap_or_else(|_| Err(unavailable(format!("no answer in {patience:?}"))))
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |cause| cause.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
