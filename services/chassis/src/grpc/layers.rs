//! What stands before every handler: trace and metrics, panics, deadline, load, who calls and whether it may.

use crate::{
    call::{Call, Caller, IDEMPOTENCY_KEY, bearer, with_deadline},
    error::{self, Fault},
    grpc::{
        body::{self, Guarded, Limited},
        timeout,
    },
    metrics, telemetry,
    token::{PEER_HEADER, PeerCredentials, Verifier},
};
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Request, Response};
use mercato_contracts::methods::{self, Caller as Rule, Idempotency, Method};
use std::{
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field};

/// A call that took longer is logged, with its trace.
const SLOW: Duration = Duration::from_secs(1);

/// What a server needs to judge calls.
pub struct Policy {
    /// Verifies tokens.
    pub verifier: Verifier,
    /// Verifies peers.
    pub credentials: PeerCredentials,
    /// How many calls may run at once.
    pub calls: Arc<Semaphore>,
    /// How many streams may run at once.
    pub streams: Arc<Semaphore>,
    /// The largest request message in bytes.
    pub max_request: usize,
    /// Full names of mounted services that are not ours and so have no policy: health, reflection, what the edge asks.
    pub foreign: BTreeSet<&'static str>,
    /// Ends the streams of such services.
    pub stop: CancellationToken,
}

/// Puts the policy before all services of a server.
#[derive(Clone)]
pub struct PolicyLayer(Arc<Policy>);

impl PolicyLayer {
    /// With this policy.
    pub fn new(policy: Arc<Policy>) -> Self {
        Self(policy)
    }
}

impl<S> Layer<S> for PolicyLayer {
    type Service = Policed<S>;

    fn layer(&self, inner: S) -> Policed<S> {
        Policed { inner, policy: self.0.clone() }
    }
}

/// A service behind the policy.
#[derive(Clone)]
pub struct Policed<S> {
    inner: S,
    policy: Arc<Policy>,
}

impl<S> Service<Request<Body>> for Policed<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: std::fmt::Display + Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let began = Instant::now();
        let clone = self.inner.clone();
        // The clone may not be ready; the one that is takes the call.
        let inner = std::mem::replace(&mut self.inner, clone);
        let path = request.uri().path();
        if let Some(method) = methods::find(path) {
            let span = span(method, request.headers());
            let policy = self.policy.clone();
            return Box::pin(policed(inner, policy, request, method, began, span.clone()).instrument(span).map(Ok));
        }
        let service = path.strip_prefix('/').and_then(|path| path.split_once('/')).map(|(service, _)| service);
        let outside = service.is_some_and(|service| self.policy.foreign.contains(service));
        let (mut inner, stop, span) = (inner, self.policy.stop.clone(), foreign_span(path, request.headers()));
        let answer = async move {
            if !outside {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            Ok(inner.call(request).await?.map(|body| Guarded::until(body, stop)))
        };
        Box::pin(answer.instrument(span))
    }
}

fn span(method: &'static Method, headers: &HeaderMap) -> Span {
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
    // a role's contracts are those of its package
    let (name, role) = (method.path.trim_start_matches('/'), method.path.split('.').nth(1));
    tracing::info_span!(target: "mercato", "rpc", traceparent = parent, role, otel.name = name, otel.kind = "server", rpc.system.name = "grpc",
        rpc.method = name, rpc.response.status_code = field::Empty, otel.status_code = field::Empty, stream = method.server_streaming)
}

/// The span of a call of a service that is not ours, such as what the edge asks; none unless it belongs to a trace that may be exported.
fn foreign_span(path: &str, headers: &HeaderMap) -> Span {
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok()).filter(|_| telemetry::exporting());
    let (Some(parent), name) = (parent, path.trim_start_matches('/')) else { return Span::none() };
    tracing::info_span!(target: "mercato", "rpc", traceparent = parent, otel.name = name, otel.kind = "server", rpc.system.name = "grpc",
        rpc.method = name)
}

/// Notes how a call ended. A refusal is an answer; an error is what nobody asked for, and worth keeping the trace.
pub(super) fn mark(span: &Span, code: Code) {
    span.record("rpc.response.status_code", name(code));
    let failed =
        matches!(code, Code::Unknown | Code::DeadlineExceeded | Code::Unimplemented | Code::Internal | Code::Unavailable | Code::DataLoss);
    if failed {
        span.record("otel.status_code", "ERROR");
    }
}

/// Whose fault the end of a call is, as it stands in metrics: `ours` when the edge makes a 5xx of it, else the `caller`'s; `none` of a good
/// one. A limit that is reached is a refusal, unless it says 503.
fn fault(code: Code, headers: Option<&HeaderMap>) -> &'static str {
    let http = headers.and_then(|headers| headers.get(error::HTTP_CODE)?.to_str().ok()?.parse::<u16>().ok());
    let ours = match http {
        Some(http) => http >= 500,
        None => matches!(code, Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable | Code::DataLoss),
    };
    match code {
        Code::Ok => "none",
        _ if ours => "ours",
        _ => "caller",
    }
}

/// Counts a call when it has ended; one that its caller gave up has ended with CANCELLED.
struct Record {
    method: &'static Method,
    began: Instant,
    span: Span,
    told: bool,
}

impl Record {
    /// With the headers or trailers that tell the code, where there are any.
    fn tell(mut self, code: Code, headers: Option<&HeaderMap>) {
        self.write(code, headers);
    }

    fn write(&mut self, code: Code, headers: Option<&HeaderMap>) {
        self.told = true;
        mark(&self.span, code);
        metrics::RPC_CALLS.one([self.method.path, name(code), fault(code, headers)]);
        let took = self.began.elapsed();
        metrics::RPC_DURATION.took_in([self.method.path], took, &self.span);
        if took >= SLOW && !self.method.server_streaming {
            // The way from a slow bucket of the histogram to a trace.
            let (method, code, ms) = (self.method.path, name(code), took.as_millis() as u64);
            self.span.in_scope(|| tracing::warn!(method, code, ms, "slow call"));
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.told {
            self.write(Code::Cancelled, None);
        }
    }
}

async fn policed<S>(
    inner: S,
    policy: Arc<Policy>,
    request: Request<Body>,
    method: &'static Method,
    began: Instant,
    span: Span,
) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send,
    S::Future: Send,
    S::Error: std::fmt::Display,
{
    let record = Record { method, began, span: span.clone(), told: false };
    let places = if method.server_streaming { &policy.streams } else { &policy.calls };
    let Ok(place) = places.clone().try_acquire_owned() else {
        metrics::RPC_SHED.one([method.path]);
        return told(record, Fault::Overloaded);
    };
    let most = Duration::from_millis(method.deadline_ms);
    let deadline = began + timeout::parse(request.headers()).map_or(most, |asked| asked.min(most));
    let handled = AssertUnwindSafe(with_deadline(deadline, handle(inner, &policy, request, method, deadline))).catch_unwind();
    let answer = match tokio::time::timeout_at(deadline, handled).await {
        Ok(Ok(Ok(response))) => Ok(response),
        Ok(Ok(Err(fault))) => Err(fault),
        Ok(Err(_)) => Err(Fault::Internal(format!("{} panicked", method.path))),
        Err(_) => Err(Fault::DeadlineExceeded),
    };
    match answer {
        Err(fault) => told(record, fault),
        Ok(response) => match body::code(response.headers()) {
            Some(code) => {
                record.tell(code, Some(response.headers()));
                response
            }
            None => response.map(|body| {
                let on_end = move |code, trailers: Option<&HeaderMap>| {
                    record.tell(code, trailers);
                    drop(place);
                };
                Guarded::wrap(body, deadline, span, Box::new(on_end))
            }),
        },
    }
}

/// The answer for a fault, counted.
fn told(record: Record, fault: Fault) -> Response<Body> {
    let status = error::status(fault);
    let code = status.code();
    let response = status.into_http();
    record.tell(code, Some(response.headers()));
    response
}

async fn handle<S>(
    mut inner: S,
    policy: &Policy,
    mut request: Request<Body>,
    method: &'static Method,
    deadline: Instant,
) -> Result<Response<Body>, Fault>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Error: std::fmt::Display,
{
    let caller = authorise(policy, method, request.headers()).await?;
    if method.idempotency == Idempotency::Key {
        check_key(request.headers())?;
    }
    let call = Call::new(method, caller, deadline, request.headers().clone());
    request.extensions_mut().insert(call.clone());
    if !method.client_streaming {
        request = request.map(|body| Limited::wrap(body, policy.max_request));
    }
    let mut response = inner.call(request).await.map_err(|e| Fault::Internal(e.to_string()))?;
    let good = body::code(response.headers()).is_none_or(|code| code == Code::Ok);
    if good && call.unjudged() {
        return Err(Fault::Internal(format!("{} answered without asking whose rows it may touch", method.path)));
    }
    if good && method.http_success != 200 {
        response.headers_mut().insert(error::HTTP_CODE, method.http_success.into());
    }
    Ok(response)
}

async fn authorise(policy: &Policy, method: &Method, headers: &HeaderMap) -> Result<Caller, Fault> {
    let text = |name: &str| {
        headers.get(name).map(|value| value.to_str().map_err(|_| Fault::TokenInvalid(format!("{name} is not text")))).transpose()
    };
    let peer = text(PEER_HEADER)?.map(|credential| policy.credentials.verify(credential)).transpose()?;
    if method.caller == Rule::Peer {
        return match peer {
            Some(role) => Ok(Caller::Peer(role)),
            None => Err(Fault::NotAllowed("only services may call this".into())),
        };
    }
    let subject = match text("authorization")? {
        Some(header) => {
            let token = bearer(header).ok_or_else(|| Fault::TokenInvalid("not a bearer token".into()))?;
            Some(policy.verifier.verify(token).await?)
        }
        None => None,
    };
    let caller = match (subject, peer) {
        (Some(subject), _) => Caller::Subject((*subject).clone()),
        (None, Some(role)) if method.caller == Rule::Public => Caller::Peer(role),
        (None, _) if method.caller == Rule::Public => Caller::Anonymous,
        (None, _) => return Err(Fault::TokenMissing),
    };
    match (method.caller, &caller) {
        (Rule::Roles(roles), Caller::Subject(subject)) if !subject.has_any(roles) => {
            Err(Fault::NotAllowed(format!("this needs one of the roles {}", roles.join(", "))))
        }
        _ => Ok(caller),
    }
}

fn check_key(headers: &HeaderMap) -> Result<(), Fault> {
    let key = headers.get(IDEMPOTENCY_KEY).ok_or(Fault::IdempotencyKeyMissing)?.as_bytes();
    let good = (1..=64).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
    if good { Ok(()) } else { Err(Fault::IdempotencyKeyInvalid) }
}

/// A code's name as it stands in metrics.
pub fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_ours_is_our_fault_and_one_of_the_callers_is_not() {
        let busy = error::status(Fault::Saturated).into_http::<Body>();
        assert_eq!(fault(Code::ResourceExhausted, Some(busy.headers())), "ours");
        let throttled = Status::resource_exhausted("too many failed sign-ins").into_http::<Body>();
        assert_eq!(fault(Code::ResourceExhausted, Some(throttled.headers())), "caller");
        let refused = error::status(Fault::IdempotencyKeyReused).into_http::<Body>();
        assert_eq!(fault(Code::FailedPrecondition, Some(refused.headers())), "caller");
        assert_eq!(fault(Code::Ok, None), "none");
        assert_eq!(fault(Code::Cancelled, None), "caller");
        for code in [Code::Unknown, Code::DeadlineExceeded, Code::Internal, Code::Unavailable, Code::DataLoss] {
            assert_eq!(fault(code, None), "ours", "{code:?}");
        }
    }
}
