//! Deadlines, panics, load, health and traces.

use crate::{
    LONG,
    doors::{MAY_PANIC, PANICS, get, plain, products, products_once, refusal, role},
};
use mercato_chassis::{current_deadline, error::OUTCOME, telemetry};
use mercato_contracts::mercato::{
    catalog::v1::{ListCategoriesRequest, Product},
    ordering::v1::{WatchOrderRequest, order_service_client::OrderServiceClient},
};
use mercato_testkit::{Actor as _, Customer, Guest, Sandbox, eventually};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tonic::Code;
use tonic_types::StatusExt as _;

/// Asks the admin server, by hand.
pub async fn admin(sandbox: &Sandbox, path: &str) -> String {
    let mut stream = TcpStream::connect(sandbox.admin().unwrap()).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The value of the first series among metrics that begins so; 0 when there is none.
pub fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find(|line| line.starts_with(series));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
}

/// Calls GetProduct without tonic's client, which would give up by itself, and returns the headers of the refusal.
async fn by_hand(sandbox: &Sandbox, timeout: &str) -> http::HeaderMap {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use prost::Message as _;
    let stream = TokioIo::new(TcpStream::connect(sandbox.grpc()).await.unwrap());
    let (mut send, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let message = get().encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(&message);
    let request = http::Request::post(format!("http://{}/mercato.catalog.v1.ProductService/GetProduct", sandbox.grpc()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(http_body_util::Full::new(bytes::Bytes::from(frame)))
        .unwrap();
    let headers = send.send_request(request).await.unwrap().headers().clone();
    connection.abort();
    headers
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_reaches_the_handler() {
    let left = Arc::new(std::sync::Mutex::new(None));
    let seen = left.clone();
    let slow = role("doors", move |_| {
        *seen.lock().unwrap() = current_deadline().map(|at| at - tokio::time::Instant::now());
        std::future::pending()
    });
    let sandbox = Sandbox::of(vec![slow]).start().await.unwrap();
    // Less than the contract's second, and again where that was over before the handler was reached.
    let reached = || async {
        let trailers = by_hand(&sandbox, "900m").await;
        assert_eq!(trailers["grpc-status"], "4", "{trailers:?}");
        *left.lock().unwrap()
    };
    let left = eventually("the handler is reached", LONG, reached).await;
    assert!(left <= Duration::from_millis(900), "{left:?}");
}

#[tokio::test]
async fn the_contract_caps_the_deadline() {
    let sandbox = Sandbox::of(vec![role("doors", |_| std::future::pending())]).start().await.unwrap();
    let began = std::time::Instant::now();
    let mut client = products_once(&sandbox);
    let refused = timeout(LONG, client.get_product(Guest.request(get()))).await.expect("an end").unwrap_err();
    assert_eq!(refusal::<()>(Err(refused.clone())), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into()));
    assert_eq!(refused.metadata().get(OUTCOME).unwrap(), "unknown");
    assert!(began.elapsed() >= Duration::from_secs(1), "the contract says one second: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_panic_is_an_internal_error_of_one_call() {
    let panicking = Arc::new(AtomicBool::new(true));
    let told = panicking.clone();
    let panics = role("doors", move |_| {
        let panicking = told.load(Ordering::SeqCst);
        async move { if panicking { panic!("a handler of the tests panics") } else { Ok(Product::default()) } }
    });
    let sandbox = Sandbox::of(vec![panics]).start().await.unwrap();
    let refused = products(&sandbox).get_product(Guest.request(get())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().starts_with("internal error"), "{}", refused.message());
    panicking.store(false, Ordering::SeqCst);
    assert!(products(&sandbox).get_product(Guest.request(get())).await.is_ok());
    let watch = WatchOrderRequest { order_id: PANICS.into(), ..Default::default() };
    let mut client = OrderServiceClient::new(sandbox.channel());
    let mut stream = client.watch_order(Customer::new().request(watch)).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    MAY_PANIC.add_permits(1);
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Internal);
    assert!(products(&sandbox).get_product(Guest.request(get())).await.is_ok());
}

#[tokio::test]
async fn more_calls_than_places_are_refused_at_once() {
    let gate = Arc::new(Semaphore::new(0));
    let inside = Arc::new(AtomicUsize::new(0));
    let (held, entered) = (gate.clone(), inside.clone());
    let waits = role("doors", move |_| {
        let (held, entered) = (held.clone(), entered.clone());
        async move {
            entered.fetch_add(1, Ordering::SeqCst);
            held.acquire().await.unwrap().forget();
            Ok(Product::default())
        }
    });
    let sandbox = Sandbox::of(vec![waits]).env("MERCATO_MAX_CALLS", "2").start().await.unwrap();
    let call = || {
        let mut client = products_once(&sandbox);
        tokio::spawn(async move { client.get_product(Guest.request(get())).await })
    };
    // The contract gives each call a second. Where that is over before the third one came, they are played again.
    let refused = eventually("two calls run and a third is refused", LONG, || async {
        let before = inside.load(Ordering::SeqCst);
        let running = [call(), call()];
        while inside.load(Ordering::SeqCst) < before + 2 && !running.iter().any(|call| call.is_finished()) {
            tokio::task::yield_now().await;
        }
        let third = call().await.unwrap();
        for call in running {
            call.abort();
        }
        third.err().filter(|refused| refused.code() != Code::DeadlineExceeded)
    })
    .await;
    assert_eq!(refusal::<()>(Err(refused.clone())), (Code::ResourceExhausted, "OVERLOADED".into()));
    assert!(refused.get_details_retry_info().is_some());
    gate.add_permits(1000);
    let free = || async { call().await.unwrap().ok() };
    eventually("the places are free again", LONG, free).await;
}

#[tokio::test]
async fn health_probes_and_metrics_tell_the_state() {
    let sandbox = plain().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(sandbox.channel());
    for service in ["", "mercato.catalog.v1.ProductService"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving, "{service:?}");
    }
    assert!(admin(&sandbox, "/livez").await.starts_with("HTTP/1.1 200"));
    assert!(admin(&sandbox, "/readyz").await.starts_with("HTTP/1.1 200"));
    // The other tests of this process are counted as well, so this is a method that only this one calls.
    let calls = "mercato_rpc_calls_total{method=\"/mercato.catalog.v1.ProductService/ListCategories\",code=\"UNIMPLEMENTED\",";
    assert_eq!(value(&admin(&sandbox, "/metrics").await, calls), 0.0);
    let listed = products(&sandbox).list_categories(ListCategoriesRequest {}).await;
    assert_eq!(listed.unwrap_err().code(), Code::Unimplemented);
    let counted = || async {
        let metrics = admin(&sandbox, "/metrics").await;
        (value(&metrics, calls) > 0.0 && metrics.contains("mercato_rpc_duration_seconds_bucket")).then_some(())
    };
    eventually("the call is counted", LONG, counted).await;
}

#[tokio::test]
async fn a_trace_goes_on_in_the_handler_and_in_internal_errors() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let fails = role("doors", |_| async {
        let parent = telemetry::traceparent().unwrap_or_default();
        assert!(parent.starts_with(&format!("00-{TRACE}-")) && !parent.contains("00f067aa0ba902b7"), "{parent}");
        Err(mercato_chassis::status(mercato_chassis::Fault::Internal("secret".into())))
    });
    let sandbox = Sandbox::of(vec![fails]).start().await.unwrap();
    let mut request = Guest.request(get());
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01").parse().unwrap());
    let refused = products(&sandbox).get_product(request).await.unwrap_err();
    assert_eq!(refused.message(), format!("internal error, trace id {TRACE}"));
}

#[tokio::test]
async fn the_contracts_can_be_asked_for() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    };
    let sandbox = plain().await;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol("mercato.catalog.v1.Product".into())),
    };
    let mut client = ServerReflectionClient::new(sandbox.channel());
    let mut answers = client.server_reflection_info(futures_util::stream::iter([ask])).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
}
