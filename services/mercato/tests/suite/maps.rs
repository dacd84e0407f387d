//! Answers that could kill Envoy: it does not survive an entry of a map that leaves out a key or value which has its default
//! (docs/adr/0005). No public answer has a map, and errors leave empty details out. A server of the suite's own, which is careless with its
//! details and answers noise besides, stands behind an Envoy of its own; it must survive.

use super::{
    children::{Env, finish, free_ports, program, spawn},
    shop::shop,
    until,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use mercato_chassis::{self as chassis, Fault, ServiceError, status};
use std::{
    convert::Infallible,
    net::SocketAddr,
    task::{Context, Poll},
};
use tonic::{body::Body, server::NamedService, transport::Server};

one_at_a_time!(with_careless_details_and_noise_do_not_kill_the_edge);

/// Refuses every other call with careless details, and answers the others with noise.
#[derive(Clone)]
struct Refuses;

impl NamedService for Refuses {
    const NAME: &'static str = "mercato.catalog.v1.ProductService";
}

impl tower::Service<http::Request<Body>> for Refuses {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let nth = request.headers().get("last-event-id").and_then(|value| value.to_str().ok()?.parse::<usize>().ok()).unwrap_or(0);
        Box::pin(async move { Ok(if nth.is_multiple_of(2) { status(Careless(nth / 2)).into_http() } else { noise(nth) }) })
    }
}

/// What a careless handler might say: details without a name, without a value, without both.
#[derive(Debug, thiserror::Error)]
#[error("nothing")]
struct Careless(usize);

impl From<Fault> for Careless {
    fn from(_: Fault) -> Self {
        Self(0)
    }
}

impl ServiceError for Careless {
    fn code(&self) -> chassis::Code {
        chassis::Code::NotFound
    }

    fn reason(&self) -> &'static str {
        "NOT_FOUND"
    }

    fn domain(&self) -> &'static str {
        "suite.mercato"
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        let all = [("", ""), ("name", ""), ("", "value"), ("kept", "yes")];
        all.iter().cycle().skip(self.0).take(3).map(|(name, value)| (*name, (*value).to_owned())).collect()
    }
}

/// An answer whose message holds nothing but noise: entries, groups and lengths that lie among them.
fn noise(nth: usize) -> http::Response<Body> {
    let mut message: Vec<u8> = (0..nth % 60).map(|_| rand::random()).collect();
    message.splice(0..0, [&b""[..], b"\x0a\x00", b"\x0a\x02\x0a\x00", b"\x0a\x02\x12\x00", b"\x0b\x0c"][nth % 5].iter().copied());
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).expect("short").to_be_bytes());
    frame.extend_from_slice(&message);
    let trailers = http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), http::HeaderValue::from_static("0"))]);
    let body = Full::<Bytes>::new(frame.into()).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = http::Response::new(Body::new(body));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    response
}

async fn with_careless_details_and_noise_do_not_kill_the_edge() {
    let ports = free_ports(3);
    let &[upstream, edge, admin] = ports.as_slice() else { panic!("three ports") };
    let address: SocketAddr = ([127, 0, 0, 1], upstream).into();
    tokio::spawn(Server::builder().add_service(Refuses).serve(address));

    let folder = shop().logs.join("maps");
    std::fs::create_dir_all(&folder).expect("a folder");
    let local = |port: u16| format!("127.0.0.1:{port}");
    let settings = [
        ("MERCATO_EDGE_ADDR", local(edge)),
        ("MERCATO_EDGE_ADMIN_ADDR", local(admin)),
        ("MERCATO_GRPC_ADDR", local(upstream)),
        ("MERCATO_GATEWAY_HTTP_ADDR", local(9)),
    ];
    let settings: Env = settings.map(|(name, value)| (name.to_owned(), value)).into();
    let mercato = program("MERCATO_BIN", Some(env!("CARGO_BIN_EXE_mercato").into())).expect("mercato");
    let out = folder.to_str().expect("text").to_owned();
    finish(&folder.join("edge.log"), &mercato, &["edge", "--out", &out], &settings).expect("a configuration");
    let envoy = program("MERCATO_ENVOY_BIN", None).expect("envoy");
    let (log, config) = (folder.join("envoy.log"), format!("{out}/envoy.yaml"));
    let process = spawn(&log, &envoy, &["-c", &config, "--disable-hot-restart", "--concurrency", "1", "-l", "warn"], &Env::new());
    let process = process.expect("envoy starts");

    let client = reqwest::Client::new();
    let ask = async |nth: usize| {
        let request = client.get(format!("http://{}/api/categories", local(edge))).header("last-event-id", nth.to_string());
        request.send().await.ok().map(|answer| answer.status().as_u16())
    };
    until("the edge of its own answers", async || ask(0).await.filter(|status| *status == 404)).await;
    let mut refused = 0;
    for round in 0..40 {
        let answers = futures_util::future::join_all((0..10).map(|n| ask(round * 10 + n))).await;
        for (n, status) in answers.into_iter().enumerate() {
            // a refusal is told as it is, or there was no time; noise is an answer, or a fault of the service behind
            refused += usize::from(status == Some(404));
            let fine = if n.is_multiple_of(2) { matches!(status, Some(404 | 503 | 504)) } else { status.is_some() };
            assert!(fine, "round {round}, call {n}: {status:?}; envoy's log is {}", log.display());
        }
    }
    assert!(refused > 0, "no refusal was told");
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("envoy still runs");
    assert!(!status.lines().any(|line| line.starts_with("State:") && line.contains('Z')), "envoy has ended");
}
