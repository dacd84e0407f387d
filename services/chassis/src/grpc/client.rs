//! The way to other roles. In one process or apart, a call passes the same layers: deadline, credential, trace, breaker, one retry.

use crate::{
    backoff,
    call::current_deadline,
    config::Env,
    error::{self, Fault},
    grpc::{
        body::{self, Guarded},
        breaker::{Breaker, Outcome},
        places::Places,
        server::limits,
        timeout::{self, GRPC_TIMEOUT},
    },
    metrics, telemetry,
    token::{PEER_HEADER, PeerCredentials},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri, header::HeaderMap};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use mercato_contracts::methods::{self, Idempotency, Method};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{io::DuplexStream, sync::mpsc, time::Instant};
use tonic::{
    Code, Status,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower::{Service, ServiceExt as _};
use tracing::{Instrument as _, field};

/// What the way back costs; a peer gets this much less time than we have.
const RETURN: Duration = Duration::from_millis(20);
/// The deadline of a method that is not in the contracts.
const DEFAULT: Duration = Duration::from_secs(2);
/// One call in this many may be a retry.
const RETRY_SHARE: i64 = 10;
/// Retries saved up for a burst, times `RETRY_SHARE`.
const RETRY_SAVED: i64 = 10 * RETRY_SHARE;
/// Connections to a role in other processes. With one, as many of its processes would work for us as there are of ours, however many there
/// are, and a call that is repeated would go where it has just failed.
const CONNECTIONS: usize = 4;

/// The ways to all roles, as seen from one.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
    from: &'static str,
    credentials: PeerCredentials,
    known: Arc<Mutex<HashMap<&'static str, Peer>>>,
}

struct Shared {
    inside: mpsc::Sender<DuplexStream>,
    local: BTreeSet<&'static str>,
    addresses: BTreeMap<String, String>,
    channels: Mutex<HashMap<&'static str, Result<Channels, String>>>,
    problems: Mutex<BTreeSet<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peers {
    /// The ways as seen from the process. Roles in `local` are reached through `inside`, the others at `MERCATO_PEER_<ROLE>`:
    /// `http://host:port`, several divided by commas. Of several processes, or several addresses of a name, the connections have one after the
    /// other.
    pub fn new(inside: mpsc::Sender<DuplexStream>, local: BTreeSet<&'static str>, env: &Env, credentials: PeerCredentials) -> Self {
        let addresses = env.iter().filter_map(|(name, url)| Some((name.strip_prefix("MERCATO_PEER_")?.to_lowercase(), url.clone())));
        let shared = Shared { inside, local, addresses: addresses.collect(), channels: Mutex::default(), problems: Mutex::default() };
        Self { shared: Arc::new(shared), from: "mercato", credentials, known: Arc::default() }
    }

    /// The same ways as seen from a role.
    pub fn seen_from(&self, role: &'static str) -> Self {
        Self { shared: self.shared.clone(), from: role, credentials: self.credentials.fresh(), known: Arc::default() }
    }

    /// The way to a role, for a generated client. Nothing is connected yet. A role without an address is told by [`Peers::problems`], and
    /// calls to it fail as unavailable.
    pub fn get(&self, role: &'static str) -> Peer {
        let make = || {
            let channels = self.shared.channels(role);
            let inner = PeerInner {
                from: self.from,
                role,
                channels,
                credentials: self.credentials.clone(),
                reads: Breaker::new(),
                writes: Breaker::new(),
                retries: AtomicI64::new(RETRY_SAVED),
            };
            let inner = Arc::new(inner);
            inner.watch();
            Peer { inner }
        };
        lock(&self.known).entry(role).or_insert_with(make).clone()
    }

    /// What is wrong with the addresses of roles asked for so far.
    pub fn problems(&self) -> Vec<String> {
        lock(&self.shared.problems).iter().cloned().collect()
    }
}

impl Shared {
    fn channels(&self, role: &'static str) -> Result<Channels, String> {
        let mut channels = lock(&self.channels);
        channels
            .entry(role)
            .or_insert_with(|| {
                let ways = self.connect(role);
                if let Err(problem) = &ways {
                    lock(&self.problems).insert(problem.clone());
                }
                ways
            })
            .clone()
    }

    fn connect(&self, role: &'static str) -> Result<Channels, String> {
        if self.local.contains(role) {
            let inside = self.inside.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let inside = inside.clone();
                async move {
                    let (client, server) = tokio::io::duplex(1024 * 1024);
                    inside.send(server).await.map_err(|_| std::io::Error::other("the process stops"))?;
                    Ok::<_, std::io::Error>(TokioIo::new(client))
                }
            });
            return Ok(Channels::new(vec![endpoint(Endpoint::from_static("http://inside")).connect_with_connector_lazy(connector)]));
        }
        let variable = format!("MERCATO_PEER_{}", role.to_uppercase());
        let url = self.addresses.get(role).ok_or_else(|| format!("{variable}: must be set, role {role} is not in this process"))?;
        let places = Places::parse(url).map_err(|e| format!("{variable}: {e}"))?;
        let endpoint = endpoint(Endpoint::from_shared(places.url()).map_err(|e| format!("{variable}: {e}"))?);
        let connector = tower::service_fn(move |_: Uri| {
            let places = places.clone();
            async move { places.connect().await.map(TokioIo::new) }
        });
        Ok(Channels::new((0..CONNECTIONS).map(|_| endpoint.connect_with_connector_lazy(connector.clone())).collect()))
    }
}

/// The connections to a role, used in turn.
#[derive(Clone)]
struct Channels {
    all: Arc<[Channel]>,
    turn: Arc<AtomicUsize>,
}

impl Channels {
    fn new(all: Vec<Channel>) -> Self {
        Self { all: all.into(), turn: Arc::default() }
    }

    fn next(&self) -> Channel {
        self.all[self.turn.fetch_add(1, Ordering::Relaxed) % self.all.len()].clone()
    }
}

fn endpoint(endpoint: Endpoint) -> Endpoint {
    let (interval, patience) = limits::KEEPALIVE;
    endpoint
        .connect_timeout(Duration::from_secs(1))
        .http2_keep_alive_interval(interval)
        .keep_alive_timeout(patience)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1024 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
}

/// The way to one role; a transport for generated clients: `ReservationServiceClient::new(peers.get("inventory"))`.
#[derive(Clone)]
pub struct Peer {
    inner: Arc<PeerInner>,
}

struct PeerInner {
    from: &'static str,
    role: &'static str,
    channels: Result<Channels, String>,
    credentials: PeerCredentials,
    reads: Breaker,
    writes: Breaker,
    /// Retries in hand, times `RETRY_SHARE`.
    retries: AtomicI64,
}

impl Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = self.inner.clone();
        let name = request.uri().path().trim_start_matches('/');
        let span = tracing::info_span!(target: "mercato", "call", otel.name = name, otel.kind = "client", rpc.system.name = "grpc",
            rpc.method = name, server.address = inner.role, rpc.response.status_code = field::Empty, otel.status_code = field::Empty);
        Box::pin(async move { Ok(inner.call(request).await.unwrap_or_else(|fault| error::status(fault).into_http())) }.instrument(span))
    }
}

/// One call, ready to be sent once or twice.
struct Prepared {
    uri: Uri,
    headers: HeaderMap,
    message: Message,
    deadline: Instant,
    /// Whether the time given is enough to blame the peer for using it up.
    fair: bool,
}

enum Message {
    /// One message, which can be sent again.
    Once(Bytes),
    /// A stream, which cannot.
    Stream(Option<Body>),
}

impl PeerInner {
    /// Has the breakers' state told at each scrape.
    fn watch(self: &Arc<Self>) {
        metrics::PEER_REFUSED.add([self.role], 0);
        let peer = Arc::downgrade(self);
        metrics::sample(move || {
            let Some(peer) = peer.upgrade() else { return false };
            for (kind, breaker) in [("read", &peer.reads), ("write", &peer.writes)] {
                metrics::PEER_BREAKER.set([peer.from, peer.role, kind], f64::from(u8::from(breaker.is_open())));
            }
            true
        });
    }

    async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let method = methods::find(request.uri().path());
        let mut call = self.prepare(method, request).await?;
        let repeatable = matches!(call.message, Message::Once(_)) && method.is_some_and(may_repeat);
        self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |r| Some((r + 1).min(RETRY_SAVED))).ok();
        let first = self.attempt(method, &mut call).await;
        let failed = match &first {
            Ok(response) => body::code(response.headers()) == Some(Code::Unavailable),
            Err(fault) => matches!(fault, Fault::Unavailable { .. }),
        };
        if !failed || !repeatable || !self.may_retry() {
            return first;
        }
        let wait = backoff::delay(1, Duration::from_millis(20), Duration::from_millis(20));
        if Instant::now() + wait >= call.deadline {
            return first;
        }
        tokio::time::sleep(wait).await;
        metrics::PEER_RETRIES.one([self.role]);
        self.attempt(method, &mut call).await
    }

    fn may_retry(&self) -> bool {
        let take = |r: i64| (r >= RETRY_SHARE).then_some(r - RETRY_SHARE);
        self.retries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    async fn prepare(&self, method: Option<&'static Method>, request: Request<Body>) -> Result<Prepared, Fault> {
        let now = Instant::now();
        let policy = method.map_or(DEFAULT, |m| Duration::from_millis(m.deadline_ms));
        let (parts, stream) = request.into_parts();
        let mut headers = parts.headers;
        let mut deadline = now + policy.min(timeout::parse(&headers).unwrap_or(policy));
        if let Some(ours) = current_deadline() {
            deadline = deadline.min(ours.checked_sub(RETURN).unwrap_or(now));
        }
        if deadline <= now {
            return Err(Fault::DeadlineExceeded);
        }
        headers.insert(PEER_HEADER, self.credentials.header(self.from));
        if let Some(parent) = telemetry::traceparent().and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert("traceparent", parent);
        }
        let message = if method.is_some_and(|m| !m.client_streaming) {
            let collected = stream.collect().await.map_err(|status| Fault::Internal(format!("the request cannot be encoded: {status}")))?;
            Message::Once(collected.to_bytes())
        } else {
            Message::Stream(Some(stream))
        };
        Ok(Prepared { uri: parts.uri, headers, message, deadline, fair: (deadline - now) * 2 >= policy })
    }

    async fn attempt(&self, method: Option<&'static Method>, call: &mut Prepared) -> Result<Response<Body>, Fault> {
        let channel = self.channels.as_ref().map_err(|detail| self.unavailable(detail.clone()))?.next();
        let breaker = if method.is_some_and(|m| m.idempotency == Idempotency::ReadOnly) { &self.reads } else { &self.writes };
        let leave = breaker.enter().ok_or_else(|| {
            metrics::PEER_REFUSED.one([self.role]);
            self.unavailable("the breaker is open".into())
        })?;
        let began = Instant::now();
        let left = call.deadline.saturating_duration_since(began);
        let answer = tokio::time::timeout_at(call.deadline, send(channel, call, left)).await;
        let code = match &answer {
            Err(_) | Ok(Err(Broken::Late)) => Code::DeadlineExceeded,
            Ok(Err(Broken::Off(_))) => Code::Unavailable,
            Ok(Ok(response)) => body::code(response.headers()).unwrap_or(Code::Ok),
        };
        super::layers::mark(&tracing::Span::current(), code);
        let path = method.map_or("unknown", |m| m.path);
        metrics::PEER_DURATION.took([self.role, path], began.elapsed());
        metrics::PEER_CALLS.one([self.role, path, super::layers::name(code)]);
        leave.tell(match code {
            Code::Unavailable | Code::Internal | Code::Unknown | Code::ResourceExhausted => Outcome::Bad,
            Code::DeadlineExceeded if call.fair => Outcome::Bad,
            _ if call.fair && began.elapsed() * 10 > left * 8 => Outcome::Slow,
            _ => Outcome::Good,
        });
        match answer {
            Err(_) | Ok(Err(Broken::Late)) => Err(Fault::DeadlineExceeded),
            Ok(Err(Broken::Off(detail))) => Err(self.unavailable(detail)),
            Ok(Ok(response)) => {
                let (deadline, span) = (call.deadline, tracing::Span::current());
                Ok(response.map(|body| Guarded::wrap(body, deadline, span, Box::new(|_, _| ()))))
            }
        }
    }

    fn unavailable(&self, detail: String) -> Fault {
        Fault::Unavailable { peer: self.role.to_owned(), detail }
    }
}

/// A call without an answer.
enum Broken {
    /// tonic's own timer, which knows the same deadline, was faster than ours.
    Late,
    /// The connection failed, and why.
    Off(String),
}

impl From<tonic::transport::Error> for Broken {
    fn from(error: tonic::transport::Error) -> Self {
        let chain = std::iter::successors(Some(&error as &dyn std::error::Error), |cause| cause.source());
        if chain.clone().any(|cause| cause.is::<tonic::TimeoutExpired>()) {
            return Self::Late;
        }
        Self::Off(chain.map(ToString::to_string).collect::<Vec<_>>().join(": "))
    }
}

async fn send(mut channel: Channel, call: &mut Prepared, left: Duration) -> Result<Response<Body>, Broken> {
    let message = match &mut call.message {
        Message::Once(bytes) => Body::new(Full::new(bytes.clone())),
        Message::Stream(body) => body.take().ok_or_else(|| Broken::Off("a stream cannot be sent again".into()))?,
    };
    let mut request = Request::new(message);
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = call.uri.clone();
    *request.headers_mut() = call.headers.clone();
    request.headers_mut().insert(GRPC_TIMEOUT, timeout::format(left));
    Ok(channel.ready().await?.call(request).await?)
}

/// Keyed, natural and reading methods; a call that changes something without a key is never sent twice.
fn may_repeat(method: &Method) -> bool {
    matches!(method.idempotency, Idempotency::ReadOnly | Idempotency::Natural | Idempotency::Key)
}

/// What a peer's failure means to the caller: a definite refusal is kept as [`Fault::Remote`], everything else means that the peer cannot
/// be asked now, and that nobody knows what it did.
pub fn peer_fault(status: Status, peer: &str) -> Fault {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::DataLoss
        | Code::Unimplemented
        | Code::Unauthenticated => {
            Fault::Unavailable { peer: peer.to_owned(), detail: format!("{:?}: {}", status.code(), status.message()) }
        }
        _ => Fault::Remote(Box::new(status)),
    }
}
