//! A collector that keeps what it is sent.

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{self as otlp, status::StatusCode},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
};
use tonic::{Request, Response, Status};

/// A span as it was exported.
#[derive(Debug, Clone)]
pub struct Span {
    pub service: String,
    pub trace: String,
    pub id: String,
    /// Empty for the first of its trace.
    pub parent: String,
    pub name: String,
    pub kind: otlp::span::SpanKind,
    pub failed: bool,
    pub attributes: BTreeMap<String, String>,
    /// Trace and span.
    pub links: Vec<(String, String)>,
    pub took: std::time::Duration,
}

#[derive(Default, Clone)]
struct Kept(Arc<Mutex<Vec<Span>>>);

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => format!("{other:?}"),
    };
    let value = |pair: &KeyValue| pair.value.as_ref().and_then(|value| value.value.as_ref().map(text)).unwrap_or_default();
    list.iter().map(|pair| (pair.key.clone(), value(pair))).collect()
}

fn read(service: &str, span: &otlp::Span) -> Span {
    let nanos = span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano);
    Span {
        service: service.to_owned(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name.clone(),
        kind: span.kind(),
        failed: span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error),
        attributes: attributes(&span.attributes),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        took: std::time::Duration::from_nanos(nanos),
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().expect("nobody panics with this lock");
        for resource in &request.get_ref().resource_spans {
            let about = attributes(resource.resource.as_ref().map_or(&[], |resource| &resource.attributes));
            let service = about.get("service.name").cloned().unwrap_or_default();
            kept.extend(resource.scope_spans.iter().flat_map(|scope| &scope.spans).map(|span| read(&service, span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The collector of this test binary; the first call starts it.
pub struct Collector {
    pub address: SocketAddr,
    kept: Kept,
}

impl Collector {
    /// Everything exported so far.
    pub fn spans(&self) -> Vec<Span> {
        self.kept.0.lock().expect("nobody panics with this lock").clone()
    }

    /// What was exported of one trace.
    pub fn trace(&self, id: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.trace == id).collect()
    }
}

pub fn collector() -> &'static Collector {
    static COLLECTOR: OnceLock<Collector> = OnceLock::new();
    COLLECTOR.get_or_init(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener for a runtime");
        let (address, kept) = (listener.local_addr().expect("its address"), Kept::default());
        let service = TraceServiceServer::new(kept.clone());
        // it serves as long as the test binary lives
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let incoming =
                    tokio_stream::wrappers::TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).expect("a listener"));
                tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.expect("the collector serves");
            });
        });
        Collector { address, kept }
    })
}
