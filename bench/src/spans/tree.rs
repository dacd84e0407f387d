//! The spans that the roles make of one order, from PlaceOrder to PAID, with the attributes they have in the shop.

use super::way::Recorder;
use tracing::{Span, field};

const POLLS: usize = 3;

/// Makes the spans of orders.
pub struct Orders<'r> {
    recorder: &'r Recorder,
    /// Spans made so far.
    pub spans: u64,
}

impl<'r> Orders<'r> {
    /// Made this way.
    pub fn new(recorder: &'r Recorder) -> Self {
        Self { recorder, spans: 0 }
    }

    /// One order, below a span of the edge.
    pub fn order(&mut self, edge: Option<&str>, id: &str) {
        self.server("envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", "gateway", edge, |_| {});
        let mut created = None;
        self.server("mercato.ordering.v1.OrderService/PlaceOrder", "ordering", edge, |orders| {
            orders.recorder.note("mercato.order_id", id);
            orders.call("mercato.catalog.v1.ProductLookupService/BatchGetProducts", "catalog", |_| {});
            orders.call("mercato.inventory.v1.ReservationService/Reserve", "inventory", |orders| orders.unit("inventory"));
            orders.unit("ordering");
            created = orders.recorder.sent(&Span::current());
        });
        self.event("orders", "order.created", "ordering", "payment", id, created.as_deref(), |orders, cause| {
            orders.unit("payment");
            orders.step("authorize", "payment", id, cause, |orders| orders.paid("authorize", "payment.authorized", id));
        });
    }

    /// The provider answers, ordering hears it, and goes on.
    fn paid(&mut self, step: &'static str, event: &'static str, id: &str) {
        self.provider(step);
        self.unit("payment");
        let cause = self.recorder.sent(&Span::current());
        self.event("payments", event, "payment", "ordering", id, cause.as_deref(), |orders, cause| {
            orders.unit("ordering");
            if step == "authorize" {
                orders.step("commit", "ordering", id, cause, |orders| orders.commit(id));
            } else {
                orders.event("orders", "order.payment_processed", "ordering", "payment", id, cause, |orders, _| orders.unit("payment"));
            }
        });
    }

    fn commit(&mut self, id: &str) {
        self.call("mercato.inventory.v1.ReservationService/CommitReservations", "inventory", |orders| orders.unit("inventory"));
        self.unit("ordering");
        let cause = self.recorder.sent(&Span::current());
        self.event("inventory", "inventory.committed", "inventory", "catalog", id, cause.as_deref(), |orders, _| orders.unit("catalog"));
        self.event("orders", "order.confirmed", "ordering", "payment", id, cause.as_deref(), |orders, cause| {
            orders.unit("payment");
            orders.step("capture", "payment", id, cause, |orders| orders.paid("capture", "payment.processed", id));
        });
    }

    /// Runs something in the span, which a future would enter once a poll.
    fn within(&mut self, span: &Span, inside: impl FnOnce(&mut Self)) {
        self.spans += 1;
        (1..POLLS).for_each(|_| span.in_scope(|| {}));
        span.in_scope(|| inside(self));
    }

    fn server(&mut self, name: &str, role: &str, parent: Option<&str>, inside: impl FnOnce(&mut Self)) {
        let traceparent = self.recorder.field(parent);
        let span = tracing::info_span!(
            "rpc",
            traceparent,
            role,
            otel.name = name,
            otel.kind = "server",
            rpc.system.name = "grpc",
            rpc.method = name,
            rpc.response.status_code = field::Empty,
            otel.status_code = field::Empty,
            stream = false
        );
        self.recorder.continues(&span, parent);
        self.within(&span, inside);
        span.record("rpc.response.status_code", "OK");
    }

    /// Both ends of a call.
    fn call(&mut self, name: &str, role: &str, inside: impl FnOnce(&mut Self)) {
        let span = tracing::info_span!(
            "call",
            otel.name = name,
            otel.kind = "client",
            rpc.system.name = "grpc",
            rpc.method = name,
            server.address = role,
            rpc.response.status_code = field::Empty,
            otel.status_code = field::Empty
        );
        self.within(&span, |orders| {
            let sent = orders.recorder.sent(&Span::current());
            orders.server(name, role, sent.as_deref(), inside);
        });
        span.record("rpc.response.status_code", "OK");
    }

    fn unit(&mut self, role: &str) {
        let span = tracing::info_span!("unit", otel.name = %format_args!("transaction {role}"), otel.kind = "client",
            db.system.name = "postgresql", db.namespace = role, db.operation.name = "transaction", mercato.outcome = field::Empty,
            otel.status_code = field::Empty);
        self.within(&span, |_| {});
        span.record("mercato.outcome", "committed");
    }

    /// Both ends of an event.
    #[expect(clippy::too_many_arguments, reason = "an event has as many properties")]
    fn event(
        &mut self,
        topic: &str,
        kind: &str,
        from: &str,
        to: &str,
        id: &str,
        cause: Option<&str>,
        inside: impl FnOnce(&mut Self, Option<&str>),
    ) {
        let traceparent = self.recorder.field(cause);
        let send = tracing::info_span!("send", traceparent, role = from, otel.name = %format_args!("send {topic}"), otel.kind = "producer",
            messaging.system = "kafka", messaging.operation.name = "send", messaging.operation.type = "send",
            messaging.destination.name = topic, messaging.message.id = %id, mercato.event = kind, mercato.aggregate = %id,
            mercato.sequence = 1_i64, otel.status_code = field::Empty);
        self.recorder.continues(&send, cause);
        self.within(&send, |_| {});
        let sent = self.recorder.sent(&send);
        drop(send);
        let traceparent = self.recorder.field(sent.as_deref());
        let process = tracing::info_span!("consume", traceparent, role = to, otel.name = format!("process {topic}"),
            otel.kind = "consumer", messaging.system = "kafka", messaging.operation.name = "process", messaging.operation.type = "process",
            messaging.destination.name = topic, messaging.destination.partition.id = %3, messaging.kafka.offset = 4711_i64,
            messaging.consumer.group.name = %format_args!("mercato.{to}.{topic}"), messaging.message.id = %id, mercato.event = kind,
            mercato.aggregate = %id, mercato.sequence = 1_i64, otel.status_code = field::Empty);
        self.recorder.continues(&process, sent.as_deref());
        self.recorder.link(&process, sent.as_deref());
        self.within(&process, |orders| {
            let cause = orders.recorder.sent(&Span::current());
            inside(orders, cause.as_deref());
        });
    }

    fn step(&mut self, kind: &str, role: &str, id: &str, cause: Option<&str>, inside: impl FnOnce(&mut Self)) {
        let traceparent = self.recorder.field(cause);
        let span = tracing::info_span!("work", traceparent, role, otel.name = %format_args!("step {kind}"), mercato.step = kind,
            mercato.subject = %id, mercato.attempt = 1_i64, mercato.verdict = field::Empty, otel.status_code = field::Empty);
        self.recorder.continues(&span, cause);
        self.within(&span, inside);
        span.record("mercato.verdict", "done");
    }

    fn provider(&mut self, step: &str) {
        let span = tracing::info_span!("provider", otel.name = %format_args!("provider {step}"), otel.kind = "client",
            server.address = "provider", mercato.provider = "dev", http.request.resend_count = 0_i64,
            http.response.status_code = field::Empty, mercato.outcome = field::Empty, otel.status_code = field::Empty);
        self.within(&span, |_| {});
        span.record("http.response.status_code", 200_i64);
        span.record("mercato.outcome", "approved");
    }
}
