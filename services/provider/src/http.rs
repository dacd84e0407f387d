//! The HTTP face.

use crate::{
    behaviour::{Behaviour, Mode},
    book::{Book, Record, Step, Verdict},
    ledger::{Ledger, Pending},
    webhook,
};
use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use time::OffsetDateTime;

/// Everything a request needs.
#[derive(Debug, Clone)]
pub struct Provider(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<Shared>,
    ledger: Ledger,
    webhooks: webhook::Sender,
}

#[derive(Debug)]
struct Shared {
    book: Book,
    default: Behaviour,
}

impl Provider {
    /// A provider that knows what the book knows.
    pub fn new(book: Book, ledger: Ledger, webhooks: webhook::Sender) -> Self {
        Self(Arc::new(Inner { state: Mutex::new(Shared { book, default: Behaviour::default() }), ledger, webhooks }))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides under the lock, so that the file has the records in the order of the decisions.
    fn decide(&self, key: &str, fingerprint: &str, reference: &str, step: &Step) -> Option<(Verdict, Pending)> {
        let at = i64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
        let mut shared = self.lock();
        let slot = self.0.ledger.slot()?;
        let verdict = shared.book.decide(key, fingerprint, reference, step, at);
        let pending = match &verdict {
            Verdict::Recorded(record) => slot.append(Some(record)),
            _ => slot.append(None),
        };
        Some((verdict, pending))
    }

    /// Reads, and waits until everything seen is on disk: no answer tells what a crash could take back.
    async fn read<T>(&self, read: impl FnOnce(&Book) -> T) -> Result<T, Response> {
        let busy = || error(StatusCode::SERVICE_UNAVAILABLE, "busy");
        let (seen, pending) = {
            let shared = self.lock();
            (read(&shared.book), self.0.ledger.slot().ok_or_else(busy)?.append(None))
        };
        pending.await.map_err(|_| busy())?;
        Ok(seen)
    }

    async fn run(&self, headers: &HeaderMap, reference: &str, step: Step, body: &impl Serialize) -> Response {
        let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
        if key.is_empty() || key.len() > 255 || reference.is_empty() || reference.len() > 255 {
            return error(StatusCode::BAD_REQUEST, "idempotency_key_or_reference_invalid");
        }
        let Some((verdict, pending)) = self.decide(key, &fingerprint(reference, &step, body), reference, &step) else {
            return error(StatusCode::SERVICE_UNAVAILABLE, "busy");
        };
        if pending.await.is_err() {
            return error(StatusCode::INTERNAL_SERVER_ERROR, "ledger");
        }
        match verdict {
            Verdict::Recorded(record) => self.answer_new(&record, &step).await,
            Verdict::Replayed(record) => answer(&record),
            Verdict::KeyReused => error(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
            Verdict::Failing(status) => {
                error(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), "failing_on_request")
            }
        }
    }

    /// The first answer to a request; here the ways to misbehave after the record is safe.
    async fn answer_new(&self, record: &Record, step: &Step) -> Response {
        let mode = record.behaviour.mode;
        if record.status == 200 {
            self.0.webhooks.send(record.kind.name(), &record.reference, mode == Mode::DuplicateWebhook);
        }
        if matches!(step, Step::Authorize { .. }) {
            match mode {
                Mode::Slow => tokio::time::sleep(Duration::from_secs(3)).await,
                Mode::TimeoutAfterCharge => tokio::time::sleep(Duration::from_secs(31)).await,
                Mode::Garbage => return ([(header::CONTENT_TYPE, "application/json")], "{\"reference\": \"").into_response(),
                _ => {}
            }
        }
        answer(record)
    }
}

fn error(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({"error": reason}))).into_response()
}

fn answer(record: &Record) -> Response {
    (StatusCode::from_u16(record.status).unwrap_or(StatusCode::OK), Json(record.answer.clone())).into_response()
}

fn fingerprint(reference: &str, step: &Step, body: &impl Serialize) -> String {
    let name = match step {
        Step::Authorize { .. } => "authorize",
        Step::Capture { .. } => "capture",
        Step::Void => "void",
        Step::Refund { .. } => "refund",
    };
    let text = json!([name, reference, body]).to_string();
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authorization {
    reference: String,
    amount_minor: i64,
    currency: String,
    #[serde(default)]
    method: String,
    #[serde(default)]
    token: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Capture {
    amount_minor: i64,
    currency: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refund {
    refund_reference: String,
    amount_minor: i64,
    currency: String,
}

#[derive(Debug, Deserialize)]
struct Page {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

/// All routes.
pub fn router(provider: Provider) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/v1/authorizations", post(authorize))
        .route("/v1/authorizations/{reference}/capture", post(capture))
        .route("/v1/authorizations/{reference}/void", post(void))
        .route("/v1/authorizations/{reference}/refunds", post(refund))
        .route("/v1/payments/{reference}", get(look_up))
        .route("/v1/ledger", get(ledger))
        .route("/v1/behaviour", get(behaviour).put(set_behaviour))
        .with_state(provider)
}

async fn authorize(State(provider): State<Provider>, headers: HeaderMap, Json(body): Json<Authorization>) -> Response {
    if body.amount_minor <= 0 || body.currency.len() != 3 {
        return error(StatusCode::BAD_REQUEST, "amount_invalid");
    }
    let behaviour = Behaviour::of_token(&body.token).unwrap_or_else(|| provider.lock().default);
    let step = Step::Authorize { amount_minor: body.amount_minor, currency: body.currency.clone(), behaviour };
    provider.run(&headers, &body.reference, step, &body).await
}

async fn capture(
    State(provider): State<Provider>,
    Path(reference): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Capture>,
) -> Response {
    if body.amount_minor <= 0 {
        return error(StatusCode::BAD_REQUEST, "amount_invalid");
    }
    provider.run(&headers, &reference, Step::Capture { amount_minor: body.amount_minor, currency: body.currency.clone() }, &body).await
}

async fn void(State(provider): State<Provider>, Path(reference): Path<String>, headers: HeaderMap) -> Response {
    provider.run(&headers, &reference, Step::Void, &Value::Null).await
}

async fn refund(State(provider): State<Provider>, Path(reference): Path<String>, headers: HeaderMap, Json(body): Json<Refund>) -> Response {
    if body.amount_minor <= 0 {
        return error(StatusCode::BAD_REQUEST, "amount_invalid");
    }
    let step =
        Step::Refund { refund_reference: body.refund_reference.clone(), amount_minor: body.amount_minor, currency: body.currency.clone() };
    provider.run(&headers, &reference, step, &body).await
}

async fn look_up(State(provider): State<Provider>, Path(reference): Path<String>) -> Response {
    match provider.read(|book| book.account(&reference).map(|account| account.view(&reference))).await {
        Ok(Some(view)) => Json(view).into_response(),
        Ok(None) => error(StatusCode::NOT_FOUND, "not_found"),
        Err(refusal) => refusal,
    }
}

async fn ledger(State(provider): State<Provider>, Query(page): Query<Page>) -> Response {
    let limit = page.limit.unwrap_or(1000).min(10_000);
    match provider.read(|book| book.records(page.after, limit).iter().map(entry).collect::<Vec<Value>>()).await {
        Ok(entries) => Json(json!({"entries": entries})).into_response(),
        Err(refusal) => refusal,
    }
}

fn entry(record: &Record) -> Value {
    json!({"sequence": record.sequence, "at": record.at, "kind": record.kind, "reference": record.reference, "key": record.key,
        "refundReference": record.refund_reference, "amountMinor": record.amount_minor, "currency": record.currency})
}

async fn behaviour(State(provider): State<Provider>) -> Json<Behaviour> {
    Json(provider.lock().default)
}

async fn set_behaviour(State(provider): State<Provider>, Json(body): Json<Behaviour>) -> Json<Behaviour> {
    provider.lock().default = body;
    Json(body)
}
