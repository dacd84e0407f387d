//! Sends spans to a collector by OTLP over gRPC. Nobody ever waits for it: spans come through a bounded queue, one request is under way at a
//! time, and what a dead or slow collector does not take is lost and counted.

use super::{TraceParent, keep::Ended};
use crate::metrics;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::Link, status::StatusCode},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
    transport::{Channel, Endpoint},
};

/// The flag of W3C Trace Context.
const SAMPLED: u32 = 1;

/// Where spans go to, and how.
pub(super) struct Plan {
    pub(super) endpoint: Endpoint,
    pub(super) headers: Vec<(AsciiMetadataKey, AsciiMetadataValue)>,
    /// The longest one request may take.
    pub(super) timeout: Duration,
    /// Spans in one request at most.
    pub(super) most: usize,
    /// The longest a span waits for others.
    pub(super) pause: Duration,
    /// The service of spans of no role.
    pub(super) service: String,
    /// What is told of this process.
    pub(super) resource: Vec<(String, String)>,
}

/// Asks the exporter to send what it has, and tells when that has ended.
pub(super) type Flush = oneshot::Sender<()>;

pub(super) struct Exporter {
    plan: Plan,
    client: TraceServiceClient<Channel>,
    /// Whether the last request failed, so that a collector that is away is told of once.
    failing: bool,
}

impl Exporter {
    pub(super) fn new(plan: Plan) -> Self {
        let client = TraceServiceClient::new(plan.endpoint.connect_lazy());
        Self { plan, client, failing: false }
    }

    /// Runs until the process ends.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Ended>, mut flushes: mpsc::Receiver<Flush>) {
        let mut ready = Vec::with_capacity(self.plan.most);
        let mut ticks = tokio::time::interval(self.plan.pause);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let room = self.plan.most - ready.len();
            tokio::select! {
                got = queue.recv_many(&mut ready, room) => {
                    if got == 0 {
                        return;
                    }
                    if ready.len() == self.plan.most {
                        self.send(std::mem::take(&mut ready)).await;
                    }
                }
                _ = ticks.tick() => self.send(std::mem::take(&mut ready)).await,
                flush = flushes.recv() => {
                    let Some(done) = flush else { return };
                    while let Ok(ended) = queue.try_recv() {
                        ready.push(ended);
                    }
                    for batch in in_batches(std::mem::take(&mut ready), self.plan.most) {
                        self.send(batch).await;
                    }
                    // Who asked may have given up.
                    done.send(()).ok();
                }
            }
        }
    }

    async fn send(&mut self, spans: Vec<Ended>) {
        if spans.is_empty() {
            return;
        }
        let count = spans.len() as u64;
        let mut request = tonic::Request::new(self.request(spans));
        for (name, value) in &self.plan.headers {
            request.metadata_mut().insert(name.clone(), value.clone());
        }
        let answer = tokio::time::timeout(self.plan.timeout, self.client.export(request)).await;
        let error = match answer {
            Ok(Ok(answer)) => {
                let refused = answer.into_inner().partial_success.map_or(0, |part| u64::try_from(part.rejected_spans).unwrap_or(0));
                metrics::TRACE_EXPORTED.add([], count.saturating_sub(refused));
                metrics::TRACE_DROPPED.add(["refused"], refused);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("traces are exported again");
                }
                return;
            }
            Ok(Err(status)) => format!("{:?}: {}", status.code(), status.message()),
            Err(_) => format!("no answer in {:?}", self.plan.timeout),
        };
        metrics::TRACE_DROPPED.add(["collector"], count);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(error, "traces are not exported");
        }
    }

    fn request(&self, spans: Vec<Ended>) -> ExportTraceServiceRequest {
        let mut by_role: BTreeMap<Option<Arc<str>>, Vec<Span>> = BTreeMap::new();
        for ended in spans {
            by_role.entry(ended.recording.role.clone()).or_default().push(span(ended));
        }
        let scope = InstrumentationScope { name: "mercato".into(), version: env!("CARGO_PKG_VERSION").into(), ..Default::default() };
        let resource_spans = by_role.into_iter().map(|(role, spans)| {
            let service = role.map_or_else(|| self.plan.service.clone(), |role| format!("mercato-{role}"));
            let about = self.plan.resource.iter().map(|(name, value)| text(name, value));
            let attributes = [text("service.name", &service)].into_iter().chain(about).collect();
            let scope_spans = vec![ScopeSpans { scope: Some(scope.clone()), spans, ..Default::default() }];
            ResourceSpans { resource: Some(Resource { attributes, ..Default::default() }), scope_spans, ..Default::default() }
        });
        ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
    }
}

fn in_batches(mut spans: Vec<Ended>, most: usize) -> Vec<Vec<Ended>> {
    let mut batches = Vec::new();
    while spans.len() > most {
        let rest = spans.split_off(most);
        batches.push(std::mem::replace(&mut spans, rest));
    }
    batches.push(spans);
    batches
}

fn text(name: &str, value: &str) -> KeyValue {
    attribute(name, Value::StringValue(value.to_owned()))
}

fn attribute(name: &str, value: Value) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..Default::default() }
}

fn nanos(since: Duration) -> u64 {
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn link(to: &TraceParent) -> Link {
    let flags = if to.sampled { SAMPLED } else { 0 };
    Link { trace_id: to.trace.to_be_bytes().into(), span_id: to.span.to_be_bytes().into(), flags, ..Default::default() }
}

fn span(ended: Ended) -> Span {
    let Ended { ids, recording, at } = ended;
    Span {
        trace_id: ids.trace.to_be_bytes().into(),
        span_id: ids.span.to_be_bytes().into(),
        parent_span_id: recording.parent.map(|parent| parent.to_be_bytes().into()).unwrap_or_default(),
        flags: SAMPLED,
        name: recording.name.into_owned(),
        kind: recording.kind.into(),
        start_time_unix_nano: nanos(recording.began),
        end_time_unix_nano: nanos(at),
        attributes: recording.fields.into_iter().map(|(name, value)| attribute(name, value)).collect(),
        links: recording.links.iter().map(link).collect(),
        status: recording.failed.then(|| Status { code: StatusCode::Error.into(), message: String::new() }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{keep::Recorder, spans::Spans};
    use super::*;
    use tracing_subscriber::{Registry, layer::SubscriberExt as _};

    const QUEUE: usize = 100;

    fn lost(why: &str) -> u64 {
        let line = format!("mercato_trace_dropped_spans_total{{why=\"{why}\"}} ");
        let text = metrics::render(metrics::Form::Classic);
        text.lines().find_map(|text| text.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    /// Makes many more spans than the queue takes while a collector does not answer, and waits until a request has been given up.
    async fn spans_for(address: std::net::SocketAddr) {
        let plan = Plan {
            endpoint: Endpoint::from_shared(format!("http://{address}")).unwrap(),
            headers: vec![],
            timeout: Duration::from_millis(50),
            most: 10,
            pause: Duration::from_millis(10),
            service: "test".into(),
            resource: vec![],
        };
        let (queue, ended) = mpsc::channel(QUEUE);
        let (ask, asked) = mpsc::channel(1);
        let exporter = tokio::spawn(Exporter::new(plan).run(ended, asked));
        let recorder = Arc::new(Recorder::new(queue, 1.0, Duration::ZERO));
        let (full, given_up) = (lost("queue"), lost("collector"));
        // on one thread, so that the exporter cannot run meanwhile: nothing here waits for it
        tracing::subscriber::with_default(Registry::default().with(Spans(Some(recorder))), || {
            (0..10 * QUEUE).for_each(|_| drop(tracing::info_span!("work")));
        });
        assert!(lost("queue") >= full + 9 * QUEUE as u64);
        let (done, told) = oneshot::channel();
        ask.send(done).await.unwrap();
        told.await.unwrap();
        assert!(lost("collector") > given_up);
        exporter.abort();
    }

    #[tokio::test]
    async fn a_collector_that_is_away_costs_nothing_but_the_spans() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        spans_for(address).await;
    }

    #[tokio::test]
    async fn a_silent_collector_costs_nothing_but_the_spans() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        spans_for(listener.local_addr().unwrap()).await;
    }
}
