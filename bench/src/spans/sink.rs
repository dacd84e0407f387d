//! A collector that counts.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

#[derive(Default, Clone)]
struct Count(Arc<AtomicU64>);

#[tonic::async_trait]
impl TraceService for Count {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.get_ref().resource_spans.iter().flat_map(|resource| &resource.scope_spans);
        let spans: usize = scopes.map(|scope| scope.spans.len()).sum();
        self.0.fetch_add(spans as u64, Ordering::Relaxed);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// The collector; it runs as long as the runtime.
pub struct Sink {
    /// `http://host:port`.
    pub endpoint: String,
    count: Count,
}

impl Sink {
    /// Spans taken so far.
    pub fn spans(&self) -> u64 {
        self.count.0.load(Ordering::Relaxed)
    }
}

/// Starts it on a free port.
pub async fn start() -> anyhow::Result<Sink> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let (endpoint, count) = (format!("http://{}", listener.local_addr()?), Count::default());
    let service = TraceServiceServer::new(count.clone());
    tokio::spawn(async move {
        let served = tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener)).await;
        if let Err(error) = served {
            eprintln!("the collector ended: {error}");
        }
    });
    Ok(Sink { endpoint, count })
}
