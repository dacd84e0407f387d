//! What an operator sees of an order in its trace, and what nobody may see in any.

mod children;
mod collector;
#[expect(dead_code, reason = "these scenarios use a part of it")]
mod door;
mod grpc;
mod openmetrics;
mod play;
#[expect(dead_code, reason = "these scenarios use a part of it")]
mod rest;
#[expect(dead_code, reason = "these scenarios use a part of it")]
mod shop;
#[expect(dead_code, reason = "these scenarios use a part of it")]
mod shopper;
#[expect(dead_code, reason = "these scenarios use a part of it")]
mod signer;
mod sweep;

use collector::{Span, collector};
use mercato_contracts::mercato::{
    ordering::v1::{PlaceOrderItem, PlaceOrderRequest, order_service_client::OrderServiceClient},
    r#type::v1::Address,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use play::{PAUSE, fresh, run, settled, settled_but, until};
use serde_json::json;
use shopper::{Shopper, order, text, with};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The collector first, then the shop that exports to it.
fn start() {
    let address = collector().address;
    shop::MORE.get_or_init(|| [("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("http://{address}"))].into());
    shop::shop();
}

/// Service, kind and name of every span that the trace of an order from POST to PAID has.
const WHOLE: &[(&str, SpanKind, &str)] = &[
    ("mercato-edge", SpanKind::Server, "POST "),
    ("mercato-gateway", SpanKind::Server, "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"),
    ("mercato-edge", SpanKind::Client, "/mercato.ordering.v1.OrderService/PlaceOrder"),
    ("mercato-ordering", SpanKind::Server, "mercato.ordering.v1.OrderService/PlaceOrder"),
    ("mercato-ordering", SpanKind::Client, "mercato.catalog.v1.ProductLookupService/BatchGetProducts"),
    ("mercato-catalog", SpanKind::Server, "mercato.catalog.v1.ProductLookupService/BatchGetProducts"),
    ("mercato-ordering", SpanKind::Client, "mercato.inventory.v1.ReservationService/Reserve"),
    ("mercato-inventory", SpanKind::Server, "mercato.inventory.v1.ReservationService/Reserve"),
    ("mercato-inventory", SpanKind::Client, "transaction inventory"),
    ("mercato-ordering", SpanKind::Client, "transaction ordering"),
    ("mercato-ordering", SpanKind::Producer, "send orders"),
    ("mercato-payment", SpanKind::Consumer, "process orders"),
    ("mercato-payment", SpanKind::Client, "transaction payment"),
    ("mercato-payment", SpanKind::Internal, "step authorize"),
    ("mercato-payment", SpanKind::Client, "provider authorize"),
    ("mercato-provider", SpanKind::Server, "POST /v1/authorizations"),
    ("mercato-payment", SpanKind::Producer, "send payments"),
    ("mercato-ordering", SpanKind::Consumer, "process payments"),
    ("mercato-ordering", SpanKind::Internal, "step commit"),
    ("mercato-inventory", SpanKind::Client, "transaction inventory"),
    ("mercato-payment", SpanKind::Internal, "step capture"),
    ("mercato-payment", SpanKind::Client, "provider capture"),
    ("mercato-provider", SpanKind::Server, "POST /v1/authorizations/{reference}/capture"),
];

/// What is not there yet.
fn missing(spans: &[Span]) -> Vec<&'static (&'static str, SpanKind, &'static str)> {
    let is = |span: &Span, (service, kind, name): &(&str, SpanKind, &str)| {
        span.service == *service && span.kind == *kind && (span.name == *name || (name.ends_with(' ') && span.name.starts_with(name)))
    };
    WHOLE.iter().filter(|wanted| !spans.iter().any(|span| is(span, wanted))).collect()
}

/// Spans whose parent is not in the trace.
fn orphans(spans: &[Span]) -> Vec<&Span> {
    let known: HashSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    spans.iter().filter(|span| !span.parent.is_empty() && !known.contains(span.parent.as_str())).collect()
}

/// The trace in which an order was placed; none as long as it is not known.
fn trace_of(order: &str) -> Option<String> {
    let placed = |span: &Span| span.kind == SpanKind::Server && span.attributes.get("mercato.order_id").is_some_and(|id| id == order);
    collector().spans().into_iter().find(placed).map(|span| span.trace)
}

/// Waits until the trace is whole.
async fn whole(order: &str) -> Vec<Span> {
    let trace = until("the trace of the order", async || trace_of(order)).await;
    let mut last = Vec::new();
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        let spans = collector().trace(&trace);
        let missing = missing(&spans);
        if missing.is_empty() && orphans(&spans).is_empty() && spans.len() == last.len() {
            return spans;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "{missing:?} is missing, without parents: {:#?}, in {}",
            orphans(&spans),
            outline(&spans)
        );
        last = spans;
        // long enough for the next export
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    }
}

/// The spans as a tree, for who reads a failure.
fn outline(spans: &[Span]) -> String {
    let mut below: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    spans.iter().for_each(|span| below.entry(span.parent.as_str()).or_default().push(span));
    let known: HashSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    let mut open: Vec<(usize, &Span)> = spans.iter().filter(|span| !known.contains(span.parent.as_str())).map(|span| (0, span)).collect();
    let mut text = String::new();
    while let Some((depth, span)) = open.pop() {
        text += &format!("\n{:indent$}{} {:?} {} {:?}", "", span.service, span.kind, span.name, span.took, indent = 2 * depth);
        open.extend(below.get(span.id.as_str()).into_iter().flatten().map(|span| (depth + 1, *span)));
    }
    text
}

/// A shopper with a product to order.
async fn ready() -> (Shopper, String) {
    start();
    let door = door::rest();
    let (staff, shopper) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    (shopper, staff.product("19.99", 1000).await)
}

#[test]
fn an_order_is_seen_whole() {
    run(async {
        let (anna, product) = ready().await;
        // where something took too long on a busy machine, its span has failed
        let spans = until("the trace of an order for which there was time", async || {
            let placed = anna.place_order(order(&[(&product, 2)])).await.expect("an order");
            let id = text(&placed.body["id"]);
            anna.sees_status(&id, "PAID").await;
            let spans = whole(&id).await;
            let good = placed.asked == 1 && spans.iter().all(|span| !span.failed);
            if !good {
                eprintln!("{}", outline(&spans));
            }
            good.then_some(spans)
        })
        .await;
        eprintln!("{}", outline(&spans));
        let roots: Vec<&Span> = spans.iter().filter(|span| span.parent.is_empty()).collect();
        assert_eq!(roots.iter().map(|span| span.service.as_str()).collect::<Vec<_>>(), ["mercato-edge"], "one root, at the edge");

        let by_id: BTreeMap<&str, &Span> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
        for consumed in spans.iter().filter(|span| span.kind == SpanKind::Consumer) {
            let sent = by_id[consumed.parent.as_str()];
            assert_eq!(sent.kind, SpanKind::Producer, "{consumed:?}");
            assert!(consumed.links.contains(&(sent.trace.clone(), sent.id.clone())), "a link to the message: {consumed:?}");
            for same in ["messaging.destination.name", "messaging.message.id", "mercato.event", "mercato.aggregate"] {
                assert_eq!(consumed.attributes[same], sent.attributes[same]);
            }
            assert_eq!(consumed.attributes["messaging.system"], "kafka");
        }
        let events: BTreeSet<&str> =
            spans.iter().filter(|span| span.kind == SpanKind::Producer).map(|span| span.attributes["mercato.event"].as_str()).collect();
        for event in ["order.created", "payment.authorized", "order.confirmed", "payment.processed"] {
            assert!(events.contains(event), "{events:?}");
        }
        for unit in spans.iter().filter(|span| span.attributes.contains_key("db.system.name")) {
            assert_eq!(
                (unit.attributes["db.system.name"].as_str(), unit.attributes["mercato.outcome"].as_str()),
                ("postgresql", "committed")
            );
        }
        let wall = spans.iter().find(|span| span.parent.is_empty()).expect("a root").took;
        assert!(
            spans.iter().filter(|span| span.kind == SpanKind::Consumer).all(|span| span.attributes.contains_key("messaging.kafka.offset"))
        );
        eprintln!("{} spans, the request took {wall:?}", spans.len());
    });
}

#[test]
fn orders_of_one_transaction_are_linked_with_it() {
    run(async {
        let (anna, product) = ready().await;
        // many at once share transactions
        let order = order(&[(&product, 1)]);
        let placing = (0..24).map(|_| anna.place_order(order.clone()));
        let placed = futures_util::future::join_all(placing).await;
        let ids: Vec<String> = placed.into_iter().map(|placed| text(&placed.expect("an order").body["id"])).collect();
        let (batch, of) = until("a batch with two of the orders", async || {
            let spans = collector().spans();
            let traces: HashSet<String> = ids.iter().filter_map(|id| trace_of(id)).collect();
            let shared = |span: &&Span| {
                span.name.starts_with("batch ") && span.links.iter().filter(|(trace, _)| traces.contains(trace)).count() >= 2
            };
            // one that is linked with a span nobody exports stays incomplete
            spans.iter().filter(shared).find_map(|batch| {
                let linked = |span: &&Span| batch.links.contains(&(span.trace.clone(), span.id.clone()));
                let of: Vec<Span> = spans.iter().filter(linked).cloned().collect();
                (of.len() == batch.links.len()).then(|| (batch.clone(), of))
            })
        })
        .await;
        assert!(batch.parent.is_empty(), "a trace of its own");
        assert_eq!(batch.attributes["mercato.batch.size"], of.len().to_string());
        for span in of {
            assert!(span.links.contains(&(batch.trace.clone(), batch.id.clone())), "a link back: {span:?}");
        }
        until("the batch's transaction", async || {
            collector().trace(&batch.trace).into_iter().find(|span| span.attributes.contains_key("db.system.name"))
        })
        .await;
    });
}

/// Places an order at ordering's inner door, in a trace that somebody decided not to sample: each try has its own.
async fn place_unsampled(shopper: &Shopper, product: &str, token: &str) -> (String, String) {
    let body = with(order(&[(product, 1)]), json!({ "paymentToken": token }));
    let address = &body["shippingAddress"];
    let message = PlaceOrderRequest {
        items: vec![PlaceOrderItem { product_id: product.to_owned(), quantity: 1, ..Default::default() }],
        shipping_address: Some(Address {
            street: text(&address["street"]),
            city: text(&address["city"]),
            state: text(&address["state"]),
            zip_code: text(&address["zipCode"]),
            ..Default::default()
        }),
        payment_method: "credit_card".into(),
        payment_token: token.to_owned(),
        ..Default::default()
    };
    let (bearer, key) = (format!("Bearer {}", shopper.token.as_ref().expect("a customer")), fresh("key-"));
    let placed = settled(async || {
        let trace = format!("{:032x}", rand::random::<u128>());
        let mut request = tonic::Request::new(message.clone());
        let traceparent = format!("00-{trace}-{:016x}-00", rand::random::<u64>().max(1));
        for (name, value) in [("authorization", &bearer), ("idempotency-key", &key), ("traceparent", &traceparent)] {
            request.metadata_mut().insert(name, value.parse().expect("ascii"));
        }
        let placed = OrderServiceClient::new(grpc::channel(&shop::shop().inside("ordering"))).place_order(request).await;
        placed.map(|placed| (placed.into_inner().id, trace)).map_err(|status| grpc::refused(&status))
    });
    placed.await.expect("an order")
}

/// Places an order in a trace that is not sampled and in which nothing fails, and has it paid. What fails on a busy machine is exported, and
/// rightly.
async fn place_quietly(shopper: &Shopper, product: &str) -> String {
    until("an order for which there was time", async || {
        let (order, quiet) = place_unsampled(shopper, product, "").await;
        shopper.sees_status(&order, "PAID").await;
        // long enough for the next export
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        (!exported_for_cause(&quiet).await).then_some(quiet)
    })
    .await
}

/// Whether anything was exported of a trace that is not sampled; only one in which something failed may be.
async fn exported_for_cause(trace: &str) -> bool {
    let exported = !collector().trace(trace).is_empty();
    if exported {
        let failed = async || collector().trace(trace).iter().any(|span| span.failed).then_some(());
        until(&format!("what failed in {}", outline(&collector().trace(trace))), failed).await;
    }
    exported
}

#[test]
fn what_is_not_sampled_is_kept_when_it_fails() {
    run(async {
        let (anna, product) = ready().await;
        let quiet = place_quietly(&anna, &product).await;
        // the provider answers nonsense after it has charged: the outcome is unknown until it is looked up
        let (doubtful, loud) = place_unsampled(&anna, &product, "tok_garbage").await;
        anna.sees_status(&doubtful, "PAID").await;
        let spans = until("the spans of what followed from the failure", async || {
            let spans = collector().trace(&loud);
            let has = |service: &str, name: &str| spans.iter().any(|span| span.service == service && span.name == name);
            let seen = has("mercato-payment", "provider authorize")
                && has("mercato-payment", "provider look_up")
                && has("mercato-ordering", "process payments")
                && has("mercato-inventory", "mercato.inventory.v1.ReservationService/CommitReservations");
            seen.then_some(spans)
        })
        .await;
        // on a busy machine more may have failed
        let failed = spans.iter().find(|span| span.failed && span.service == "mercato-payment" && span.name == "provider authorize");
        let failed = failed.expect("a failure");
        assert_eq!(failed.attributes["mercato.outcome"], "unknown");
        assert!(spans.iter().any(|span| span.id == failed.parent && span.name == "step authorize"), "{}", outline(&spans));
        exported_for_cause(&quiet).await;
    });
}

/// Metrics that name a trace in one of their buckets once an order was paid.
const TIMED: &[&str] = &[
    "mercato_rpc_duration_seconds_bucket",
    "mercato_peer_duration_seconds_bucket",
    "mercato_db_wait_seconds_bucket",
    "mercato_db_hold_seconds_bucket",
    "mercato_outbox_delay_seconds_bucket",
    "mercato_inbox_delay_seconds_bucket",
    "mercato_inbox_transaction_seconds_bucket",
    "mercato_work_duration_seconds_bucket",
    "mercato_payment_provider_duration_seconds_bucket",
];

/// The exemplars of all processes.
async fn exemplars() -> Vec<openmetrics::Exemplar> {
    let scrapes = shop::shop().open_scrapes().await;
    scrapes.iter().flat_map(|scrape| openmetrics::read(scrape).unwrap_or_else(|what| panic!("{what}"))).collect()
}

#[test]
fn slow_buckets_lead_to_traces_that_were_exported() {
    run(async {
        let (anna, product) = ready().await;
        let placed = anna.place_order(order(&[(&product, 1)])).await.expect("an order");
        let id = text(&placed.body["id"]);
        anna.sees_status(&id, "PAID").await;
        let quiet = place_quietly(&anna, &product).await;
        let told = until("an exemplar in each of them", async || {
            let told = exemplars().await;
            TIMED.iter().all(|wanted| told.iter().any(|one| one.sample == *wanted)).then_some(told)
        })
        .await;
        let exported = exported_for_cause(&quiet).await;
        assert!(exported || told.iter().all(|one| one.trace != quiet), "nobody exports that trace");
        let traces: BTreeSet<String> = told.into_iter().map(|one| one.trace).collect();
        until("the spans of each trace that is named", async || {
            let exported: HashSet<String> = collector().spans().into_iter().map(|span| span.trace).collect();
            traces.iter().all(|trace| exported.contains(trace)).then_some(())
        })
        .await;
    });
}

#[test]
fn no_attribute_holds_personal_data() {
    run(async {
        let (anna, product) = ready().await;
        let account = shopper::account();
        let door = door::rest();
        let guest = Shopper::guest(&door);
        guest.ask("RegisterCustomer", account.clone()).await.expect("a new account");
        let wrong = json!({ "email": account["email"], "password": "wrong-password" });
        guest.ask("Login", wrong).await.expect_err("a wrong password");
        let placed = anna.place_order(order(&[(&product, 1)])).await.expect("an order");
        let id = text(&placed.body["id"]);
        anna.sees_status(&id, "PAID").await;
        whole(&id).await;
        let login = "mercato.customer.v1.AuthService/Login";
        until("the span of the login", async || collector().spans().into_iter().find(|span| span.name == login)).await;
        let token = anna.token.as_deref().expect("a customer");
        let mut secrets =
            vec!["@example.com", "Hauptstrasse", "Koeln", "50667", "+49", "secret-", "wrong-password", "Bearer", token, "tok_"];
        let name = text(&account["username"]);
        secrets.push(&name);
        for span in collector().spans() {
            for (attribute, value) in &span.attributes {
                let found: Vec<&&str> = secrets.iter().filter(|secret| value.contains(**secret) || span.name.contains(**secret)).collect();
                assert!(found.is_empty(), "{found:?} in {attribute} of {} {}", span.service, span.name);
                let address = matches!(attribute.as_str(), "peer.address" | "user_agent" | "client.address" | "user_agent.original");
                assert!(!address || value == "-", "{attribute}={value} of {} {}", span.service, span.name);
            }
        }
    });
}
