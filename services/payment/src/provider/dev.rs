//! The development provider over HTTP.

use super::{Ask, Entry, Provider, wire};
use crate::domain::{Reply, Sight, Token};
use async_trait::async_trait;
use mercato_chassis::{
    Fault, backoff,
    grpc::breaker::{Breaker, Outcome},
    telemetry,
};
use reqwest::{Client, RequestBuilder, Response, redirect};
use serde::Serialize;
use std::time::{Duration, Instant};
use tracing::{Instrument as _, Span, field};

/// Calls of a definite, passing failure, at once.
const TRIES: u32 = 3;
/// After this time no further try is begun, so that all fit into a worker's lease.
const PATIENCE: Duration = Duration::from_secs(8);
/// Larger answers are not read.
const LARGEST: usize = 64 * 1024;
/// A page of the ledger may be larger.
const LARGEST_PAGE: usize = 4 * 1024 * 1024;
const PAGE: usize = 1000;
/// Connections kept open between calls: as many as steps run at the same time.
const IDLE: usize = 64;

/// The development provider.
#[derive(Debug)]
pub struct DevProvider {
    client: Client,
    base: String,
    call_timeout: Duration,
    look_up_timeout: Duration,
    breaker: Breaker,
}

/// Why there is no answer.
enum Silence {
    /// The request was never sent.
    NotSent(String),
    /// It may have arrived.
    Lost(String),
}

impl DevProvider {
    /// For the provider at this base URL, without a slash at the end. All calls share one pool of connections that are kept open.
    ///
    /// # Errors
    /// [`Fault::Internal`] when no HTTP client can be made.
    pub fn new(base: String, call_timeout: Duration, look_up_timeout: Duration) -> Result<Self, Fault> {
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(1))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(IDLE)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| Fault::Internal(format!("http client: {error}")))?;
        Ok(Self { client, base, call_timeout, look_up_timeout, breaker: Breaker::new() })
    }

    fn post(&self, path: &str, key: &str, body: &impl Serialize) -> RequestBuilder {
        let request = self.client.post(format!("{}{path}", self.base)).header("idempotency-key", key);
        request.timeout(self.call_timeout).json(body)
    }

    /// Calls, judges, and repeats the same request while the provider says that it did nothing.
    async fn call(&self, step: &'static str, request: RequestBuilder, judge: impl Fn(u16, &[u8]) -> Reply) -> Reply {
        let began = Instant::now();
        let (mut attempt, mut last) = (0, None);
        loop {
            attempt += 1;
            let Some(again) = request.try_clone() else { return Reply::NotSent("the request cannot be repeated".to_owned()) };
            let Some(leave) = self.breaker.enter() else {
                // What the provider answered just now counts, or a step that always fails is never given up.
                return last.unwrap_or_else(|| Reply::NotSent("the provider is failing".to_owned()));
            };
            let one = Instant::now();
            let span = span(step, attempt);
            let reply = match send(again, LARGEST).instrument(span.clone()).await {
                Ok((status, body)) => judge(status, &body),
                Err(Silence::NotSent(error)) => Reply::Transient(error),
                Err(Silence::Lost(error)) => Reply::Unknown(error),
            };
            mark(&span, outcome(&reply));
            leave.tell(match &reply {
                Reply::Transient(_) | Reply::Unknown(_) => Outcome::Bad,
                _ if one.elapsed() > self.call_timeout / 2 => Outcome::Slow,
                _ => Outcome::Good,
            });
            measure(step, outcome(&reply), one.elapsed(), &span);
            match reply {
                Reply::Transient(_) if attempt < TRIES && began.elapsed() < PATIENCE => {
                    tokio::time::sleep(backoff::delay(attempt, Duration::from_millis(100), Duration::from_secs(1))).await;
                    last = Some(reply);
                }
                reply => return reply,
            }
        }
    }
}

/// The span of a call, when spans are exported.
fn span(step: &'static str, attempt: u32) -> Span {
    if !telemetry::exporting() {
        return Span::current();
    }
    tracing::info_span!("provider", otel.name = %format_args!("provider {step}"), otel.kind = "client", server.address = "provider",
        mercato.provider = "dev", http.request.resend_count = attempt - 1, http.response.status_code = field::Empty,
        mercato.outcome = field::Empty, otel.status_code = field::Empty)
}

/// Notes how a call ended. A refusal is an answer; the rest leaves somebody with work to do.
fn mark(span: &Span, outcome: &'static str) {
    span.record("mercato.outcome", outcome);
    if matches!(outcome, "transient" | "not_sent" | "unknown" | "mismatch" | "failed") {
        span.record("otel.status_code", "ERROR");
    }
}

async fn send(request: RequestBuilder, largest: usize) -> Result<(u16, Vec<u8>), Silence> {
    let request = match telemetry::traceparent() {
        Some(traceparent) => request.header("traceparent", traceparent),
        None => request,
    };
    let response = request.send().await.map_err(|error| {
        // The URL names an order; it is left out of logs and the store.
        let connecting = error.is_connect() || error.is_builder();
        let text = error.without_url().to_string();
        if connecting { Silence::NotSent(text) } else { Silence::Lost(text) }
    })?;
    let status = response.status().as_u16();
    Span::current().record("http.response.status_code", status);
    Ok((status, read(response, largest).await?))
}

async fn read(mut response: Response, largest: usize) -> Result<Vec<u8>, Silence> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| Silence::Lost(error.without_url().to_string()))? {
        if body.len() + chunk.len() > largest {
            return Err(Silence::Lost("the answer is too large".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn outcome(reply: &Reply) -> &'static str {
    match reply {
        Reply::Approved { .. } => "approved",
        Reply::Declined => "declined",
        Reply::SoftDeclined => "soft_declined",
        Reply::Refused(_) => "refused",
        Reply::Transient(_) => "transient",
        Reply::NotSent(_) => "not_sent",
        Reply::Unknown(_) => "unknown",
        Reply::Mismatch(_) => "mismatch",
    }
}

fn measure(step: &'static str, outcome: &'static str, took: Duration, span: &Span) {
    crate::metrics::PROVIDER_CALLS.one([step, outcome]);
    crate::metrics::PROVIDER_DURATION.took_in([step], took, span);
}

#[async_trait]
impl Provider for DevProvider {
    fn name(&self) -> &'static str {
        "dev"
    }

    async fn authorize(&self, ask: &Ask, method: &str, token: &Token) -> Reply {
        let (reference, currency) = (ask.reference.as_str(), ask.currency.as_str());
        let body = wire::Authorization { reference, amount_minor: ask.amount, currency, method, token: &token.0 };
        let request = self.post("/v1/authorizations", &ask.key, &body);
        self.call("authorize", request, |status, body| wire::judge(ask, "authorized", status, body)).await
    }

    async fn capture(&self, ask: &Ask) -> Reply {
        let body = wire::Amount { refund_reference: None, amount_minor: ask.amount, currency: &ask.currency };
        let request = self.post(&format!("/v1/authorizations/{}/capture", ask.reference), &ask.key, &body);
        self.call("capture", request, |status, body| wire::judge(ask, "captured", status, body)).await
    }

    async fn void(&self, ask: &Ask, held: bool) -> Reply {
        let request = self.post(&format!("/v1/authorizations/{}/void", ask.reference), &ask.key, &serde_json::Value::Null);
        self.call("void", request, |status, body| wire::judge_void(ask, held, status, body)).await
    }

    async fn refund(&self, ask: &Ask) -> Reply {
        let body = wire::Amount { refund_reference: Some(&ask.key), amount_minor: ask.amount, currency: &ask.currency };
        let request = self.post(&format!("/v1/authorizations/{}/refunds", ask.reference), &ask.key, &body);
        self.call("refund", request, |status, body| wire::judge(ask, "refunded", status, body)).await
    }

    /// Not behind the breaker: while the provider is ill, look-ups are what finds out how far it came. Their pauses grow by themselves.
    async fn look_up(&self, reference: &str) -> Sight {
        let began = Instant::now();
        let request = self.client.get(format!("{}/v1/payments/{reference}", self.base)).timeout(self.look_up_timeout);
        let span = span("look_up", 1);
        let sight = match send(request, LARGEST).instrument(span.clone()).await {
            Ok((status, body)) => wire::judge_look_up(reference, status, &body),
            Err(Silence::NotSent(error) | Silence::Lost(error)) => Sight::Failed(error),
        };
        let outcome = match &sight {
            Sight::Found(_) => "found",
            Sight::NotFound => "not_found",
            Sight::Failed(_) => "failed",
        };
        mark(&span, outcome);
        measure("look_up", outcome, began.elapsed(), &span);
        sight
    }

    async fn entries(&self, after: u64) -> Result<(Vec<Entry>, Option<u64>), Fault> {
        let unavailable = |detail: String| Fault::Unavailable { peer: "provider".to_owned(), detail };
        let request = self.client.get(format!("{}/v1/ledger?after={after}&limit={PAGE}", self.base)).timeout(self.call_timeout);
        match send(request, LARGEST_PAGE).await {
            Ok((200, body)) => wire::entries(&body).ok_or_else(|| unavailable("the ledger cannot be read".to_owned())),
            Ok((status, _)) => Err(unavailable(format!("the ledger answered {status}"))),
            Err(Silence::NotSent(error) | Silence::Lost(error)) => Err(unavailable(error)),
        }
    }
}
