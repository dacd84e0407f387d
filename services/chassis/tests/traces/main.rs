//! The export of traces, in a process of its own because it is decided once a process.

#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mercato_chassis::telemetry;
use mercato_testkit::{Fake, Sandbox};
use std::{convert::Infallible, time::Duration};
use tokio::{net::TcpListener, sync::mpsc};

/// A collector: passes on the bytes of every export.
async fn collector() -> (String, mpsc::UnboundedReceiver<Bytes>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, (tell, exports)) = (listener.local_addr().unwrap(), mpsc::unbounded_channel());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let tell = tell.clone();
                async move {
                    tell.send(request.into_body().collect().await.unwrap().to_bytes()).unwrap();
                    let empty = Full::new(Bytes::from_static(&[0, 0, 0, 0, 0]));
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                    let body = empty.with_trailers(std::future::ready(Some(Ok::<_, Infallible>(trailers))));
                    Ok::<_, Infallible>(http::Response::builder().header("content-type", "application/grpc").body(body).unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    (format!("http://{address}"), exports)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_of_calls_reach_a_collector_before_the_process_ends() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let (endpoint, mut exports) = collector().await;
    let sandbox = Sandbox::of(vec![Fake::role("nothing", |_, _| ())]).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).start().await.unwrap();
    let span = tracing::info_span!(target: "mercato", "order of the tests", traceparent = PARENT);
    let child = span.in_scope(telemetry::current).unwrap();
    assert_eq!(child.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_ne!(child.to_string(), PARENT, "the span has an id of its own");
    drop(span);
    assert!(sandbox.stop().await);
    let export = tokio::time::timeout(Duration::from_secs(60), exports.recv()).await.expect("nothing was exported").unwrap();
    let has = |needle: &[u8]| export.windows(needle.len()).any(|window| window == needle);
    assert!(has(&0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes()) && has(b"order of the tests") && has(b"mercato-nothing"));
}
