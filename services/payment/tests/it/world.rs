//! The payment role on real stores, a real provider beside it, and an order book that speaks through a real outbox and Kafka.

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use mercato_chassis::{
    Context, Fault, Mounted, Prepared, Role,
    config::Source,
    inbox::{Consumer, Handler, Received},
    outbox::{self, Event},
    pg::Db,
};
use mercato_contracts::{
    google::api::HttpBody,
    mercato::{
        ordering::v1 as ordering,
        payment::v1::{self as proto, payment_service_client::PaymentServiceClient},
        r#type::v1::Money,
    },
};
use mercato_payment::{Payment, app::Difference, provider::DevProvider};
use mercato_provider::{Options, Server, Target};
use mercato_testkit::{Actor, Customer, Guest, LONG, Patient, Sandbox, eventually, patiently};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};
use tonic::{Status, async_trait, transport::Channel};
use uuid::Uuid;

pub const SECRET: &str = "a-webhook-secret-of-tests";
/// For a world in which calls are to run out of time: less than the provider's slow answers take, more than its others.
pub const IMPATIENT: (&str, &str) = ("MERCATO_PROVIDER_TIMEOUT_MS", "2000");

/// Stands for ordering: a role with an outbox and a consumer of `payments`.
#[derive(Clone, Default)]
struct Orders {
    db: Arc<OnceLock<Db>>,
    told: Arc<Mutex<Vec<Received>>>,
}

static NO_TABLES: sqlx::migrate::Migrator = sqlx::migrate::Migrator::DEFAULT;

impl Role for Orders {
    fn name(&self) -> &'static str {
        "ordering"
    }

    fn migrations(&self) -> Option<&'static sqlx::migrate::Migrator> {
        Some(&NO_TABLES)
    }

    fn configure(&self, _: &mut Source) -> Box<dyn Prepared> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Prepared for Orders {
    async fn start(self: Box<Self>, ctx: Context) -> Result<Mounted, Fault> {
        self.db.set(ctx.db()).map_err(|_| Fault::Internal("started twice".into()))?;
        let mut mounted = Mounted::new();
        mounted.consumers.push(Consumer { name: "test.payments", topics: &["payments"], handler: Arc::new(*self) });
        Ok(mounted)
    }
}

#[async_trait]
impl Handler for Orders {
    fn wants(&self, _: &str) -> bool {
        true
    }

    async fn handle(&self, _: &mut PgConnection, _: &Received) -> Result<(), Fault> {
        Ok(())
    }

    fn committed(&self, events: &[Received]) {
        self.told.lock().expect("told").extend(events.iter().cloned());
    }
}

/// Everything a test touches.
pub struct World {
    pub sandbox: Sandbox,
    pub provider: Server,
    orders: Orders,
    hooks: Arc<Hooks>,
    data: PathBuf,
    sequences: Mutex<HashMap<Uuid, i64>>,
}

/// Where webhooks go, and how many were taken.
#[derive(Default)]
struct Hooks {
    channel: OnceLock<Channel>,
    taken: AtomicU64,
}

/// Takes the provider's webhooks over HTTP to the RPC, as the edge does.
async fn forward(State(hooks): State<Arc<Hooks>>, headers: HeaderMap, body: Bytes) -> axum::http::StatusCode {
    let Some(channel) = hooks.channel.get() else { return axum::http::StatusCode::SERVICE_UNAVAILABLE };
    let signature = headers.get("x-signature").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    match call(channel.clone(), "dev", Some(&signature), body.to_vec()).await {
        Ok(()) => {
            hooks.taken.fetch_add(1, Ordering::SeqCst);
            axum::http::StatusCode::NO_CONTENT
        }
        Err(status) if status.code() == tonic::Code::Unauthenticated => axum::http::StatusCode::UNAUTHORIZED,
        Err(_) => axum::http::StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Calls `ReceiveWebhook`, which may be repeated.
pub async fn webhook(channel: Channel, provider: &str, signature: Option<&str>, body: Vec<u8>) -> Result<(), Status> {
    patiently("a webhook", || call(channel.clone(), provider, signature, body.clone())).await
}

async fn call(channel: Channel, provider: &str, signature: Option<&str>, body: Vec<u8>) -> Result<(), Status> {
    let payload = Some(HttpBody { content_type: "application/json".into(), data: body.into(), ..HttpBody::default() });
    let mut request = Guest.request_without_key(proto::ReceiveWebhookRequest { provider: provider.into(), payload });
    if let Some(signature) = signature {
        request.metadata_mut().insert("x-signature", signature.parse().expect("ascii"));
    }
    PaymentServiceClient::new(channel).receive_webhook(request).await.map(|_| ())
}

impl World {
    /// Waits are a hundredth of the real ones, and three failures are enough for an operator's case.
    pub async fn start() -> World {
        Self::start_with(&[]).await
    }

    pub async fn start_with(more: &[(&str, &str)]) -> World {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/webhooks", listener.local_addr().expect("address"));
        let hooks = Arc::new(Hooks::default());
        let router = Router::new().route("/webhooks", post(forward)).with_state(hooks.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let data = std::env::temp_dir().join(format!("mercato-provider-{}", Uuid::now_v7()));
        let webhook = Some(Target { url, secret: SECRET.into() });
        let options = Options { address: ([127, 0, 0, 1], 0).into(), data: data.clone(), webhook, tracer: None };
        let provider = mercato_provider::start(options).await.expect("the provider starts");
        let orders = Orders::default();
        let mut builder = Sandbox::of(vec![Box::new(Payment), Box::new(orders.clone())])
            .env("MERCATO_PROVIDER_URL", provider.url())
            .env("MERCATO_PROVIDER_WEBHOOK_SECRET", SECRET)
            .env("MERCATO_PROVIDER_TIMEOUT_MS", "10000")
            .env("MERCATO_PROVIDER_LOOKUP_TIMEOUT_MS", "10000")
            .env("MERCATO_PAYMENT_SETTLE_MS", "300")
            .env("MERCATO_PAYMENT_TRIES", "3")
            .env("MERCATO_PAYMENT_LOOKUP_SCALE_PERCENT", "1");
        for (name, value) in more {
            builder = builder.env(name, *value);
        }
        let sandbox = builder.start().await.expect("the sandbox starts");
        hooks.channel.set(sandbox.channel()).expect("set once");
        World { sandbox, provider, orders, hooks, data, sequences: Mutex::default() }
    }

    pub fn client(&self) -> PaymentServiceClient<Patient> {
        PaymentServiceClient::new(self.sandbox.patient())
    }

    /// How many webhooks of the provider were taken.
    pub fn webhooks(&self) -> u64 {
        self.hooks.taken.load(Ordering::SeqCst)
    }

    pub async fn pool(&self) -> &PgPool {
        self.sandbox.pool("payment").await
    }

    async fn publish(&self, kind: &'static str, order: Uuid, sequence: i64, payload: impl prost::Message + Clone + 'static) {
        let db = self.orders.db.get().expect("started");
        let written = || async {
            let payload = payload.clone();
            let append = db.uow_within(LONG, move |tx| {
                let event = Event::new("orders", kind, order, sequence, &payload);
                Box::pin(async move { outbox::append(tx, &[event]).await })
            });
            match append.await {
                // A busy machine: nothing was written.
                Err(Fault::Saturated | Fault::Timeout) => None,
                written => {
                    written.expect("the event is written");
                    Some(())
                }
            }
        };
        eventually("the event is written", LONG, written).await;
    }

    fn next(&self, order: Uuid) -> i64 {
        let mut sequences = self.sequences.lock().expect("sequences");
        let sequence = sequences.entry(order).or_default();
        *sequence += 1;
        *sequence
    }

    /// Places an order of 29.99 EUR.
    pub async fn place(&self, customer: &Customer, token: &str) -> Uuid {
        let order = Uuid::now_v7();
        let created = ordering::OrderCreated { order: Some(message(order, customer)), payment_token: token.into() };
        self.publish("order.created", order, self.next(order), created).await;
        order
    }

    /// Tells again that the order was placed, under a number that was used before.
    pub async fn place_again(&self, order: Uuid, customer: &Customer) {
        let created = ordering::OrderCreated { order: Some(message(order, customer)), payment_token: "tok_approve".into() };
        self.publish("order.created", order, 1, created).await;
    }

    pub async fn created_after_all(&self, order: Uuid, customer: &Customer) {
        let created = ordering::OrderCreated { order: Some(message(order, customer)), payment_token: "tok_approve".into() };
        self.publish("order.created", order, self.next(order), created).await;
    }

    pub async fn confirm(&self, order: Uuid, customer: &Customer) {
        let confirmed = ordering::OrderConfirmed { order: Some(message(order, customer)) };
        self.publish("order.confirmed", order, self.next(order), confirmed).await;
    }

    pub async fn cancel(&self, order: Uuid, customer: &Customer) {
        let cancelled = ordering::OrderCancelled { reason: "CANCELLED_BY_CUSTOMER".into(), order: Some(message(order, customer)) };
        self.publish("order.cancelled", order, self.next(order), cancelled).await;
    }

    /// The kinds of events told about an order, in order; their numbers have no gap.
    pub fn told(&self, order: Uuid) -> Vec<String> {
        let told = self.orders.told.lock().expect("told");
        let of_order: Vec<_> = told.iter().filter(|event| event.aggregate == order).collect();
        let numbers: Vec<i64> = of_order.iter().map(|event| event.sequence).collect();
        assert_eq!(numbers, (1..).take(numbers.len()).collect::<Vec<i64>>(), "the sequence has a gap");
        of_order.iter().map(|event| event.kind.clone()).collect()
    }

    /// The payment in the latest event of an order.
    pub fn latest(&self, order: Uuid) -> Option<proto::Payment> {
        let told = self.orders.told.lock().expect("told");
        let event = told.iter().rfind(|event| event.aggregate == order)?;
        // All events of payments carry the payment in field 1.
        event.decode::<proto::PaymentInitiated>().expect("a payment event").payment
    }

    /// Waits until exactly these events were told.
    pub async fn until_told(&self, order: Uuid, kinds: &[&str]) {
        let what = format!("{kinds:?} of {order}");
        let enough = || async {
            let told = self.told(order);
            (told.len() >= kinds.len()).then_some(told)
        };
        assert_eq!(eventually(&what, LONG, enough).await, kinds);
    }

    /// Waits until payment has heard all that was told so far: so many orders that, as good as certainly, one is in each partition behind it.
    pub async fn all_heard(&self, customer: &Customer) {
        let mut markers = Vec::new();
        for _ in 0..16 {
            markers.push(self.place(customer, "tok_decline").await);
        }
        for marker in markers {
            self.until_told(marker, &["payment.initiated", "payment.failed"]).await;
            assert_eq!(self.latest(marker).expect("payment").failure_reason, "PAYMENT_DECLINED");
        }
    }

    /// Waits until the provider has noted at least so much about an order.
    pub async fn until_at_provider(&self, order: Uuid, entries: usize) {
        eventually("the provider's entries", LONG, || async { (self.at_provider(order).await.len() >= entries).then_some(()) }).await;
    }

    /// Lets the time for a payment, of 14 minutes, be over.
    pub async fn expire(&self, order: Uuid) {
        let age = "update payment set created_at = created_at - interval '15 minutes' where order_id = $1";
        let aged = sqlx::query(age).bind(order).execute(self.pool().await).await.expect("update").rows_affected();
        assert_eq!(aged, 1);
    }

    /// What the provider's ledger has about an order: (kind, amount).
    pub async fn at_provider(&self, order: Uuid) -> Vec<(String, i64)> {
        let ledger: Value =
            reqwest::get(format!("{}/v1/ledger?limit=10000", self.provider.url())).await.expect("ledger").json().await.expect("json");
        let entries = ledger["entries"].as_array().cloned().unwrap_or_default();
        let of_order = entries.iter().filter(|e| e["reference"].as_str().is_some_and(|r| r.starts_with(&order.to_string())));
        of_order.map(|e| (e["kind"].as_str().unwrap_or_default().to_owned(), e["amountMinor"].as_i64().unwrap_or_default())).collect()
    }

    /// Does something at the provider that payment knows nothing of.
    pub async fn ask_provider(&self, path: &str, key: &str, body: &Value) {
        let request = reqwest::Client::new().post(format!("{}{path}", self.provider.url())).header("idempotency-key", key).json(body);
        let answer = request.send().await.expect("the provider answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }

    /// Our ledger against the provider's.
    pub async fn differences(&self) -> Vec<Difference> {
        let db = self.sandbox.db("payment").await;
        let provider = DevProvider::new(self.provider.url(), LONG, LONG).expect("client");
        let differences = mercato_payment::app::reconcile(&db, &provider).await.expect("both ledgers");
        db.close().await;
        differences
    }

    /// Both ledgers agree, ours balances, and no case or doubt is left open.
    pub async fn at_rest(&self) {
        let pool = self.pool().await;
        let no_work = || async {
            let open: i64 = sqlx::query_scalar("select count(*) from work").fetch_one(pool).await.expect("count");
            (open == 0).then_some(())
        };
        eventually("no open work", LONG, no_work).await;
        assert_eq!(self.differences().await, vec![]);
        let unbalanced = "select count(*) from (select tx_id from ledger group by tx_id, currency
                          having sum(case side when 'D' then amount_minor else -amount_minor end) <> 0) as t";
        let unbalanced: i64 = sqlx::query_scalar(unbalanced).fetch_one(pool).await.expect("count");
        assert_eq!(unbalanced, 0);
    }

    pub async fn stop(self) {
        assert!(self.sandbox.stop().await, "work was left over");
        self.provider.stop().await;
        std::fs::remove_dir_all(self.data).expect("the provider's folder");
    }
}

pub fn euros(amount: &str) -> Money {
    Money { currency_code: "EUR".into(), amount: amount.into() }
}

fn message(order: Uuid, customer: &Customer) -> ordering::Order {
    ordering::Order {
        id: order.to_string(),
        user_id: customer.id.to_string(),
        total_amount: Some(euros("29.99")),
        payment_method: "credit_card".into(),
        ..ordering::Order::default()
    }
}
