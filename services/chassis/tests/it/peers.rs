//! Calls from role to role.

use crate::{
    LONG,
    doors::{get, products, role},
    server::{admin, value},
};
use async_trait::async_trait;
use mercato_chassis::{
    Caller, Context, Fault, Mounted, Prepared, Role,
    boot::{self, StartError},
    config::Source,
    grpc::client::{Peer, peer_fault},
    status, telemetry,
};
use mercato_contracts::mercato::catalog::v1::{Product, product_service_client::ProductServiceClient};
use mercato_testkit::{Actor as _, Fake, Guest, Sandbox, TestKeys, busy, eventually, patiently};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};
use tonic::{Code, Response, Status};

/// Calls GetProduct over a way, once.
async fn ask(way: &Peer) -> Result<Product, Status> {
    ProductServiceClient::new(way.clone()).get_product(get()).await.map(Response::into_inner)
}

/// A role that hands out its way to another role.
fn caller(to: &'static str, way: &Arc<Mutex<Option<Peer>>>) -> Box<dyn Role> {
    let way = way.clone();
    Fake::role("caller", move |ctx, _| *way.lock().unwrap() = Some(ctx.peers.get(to)))
}

/// A sandbox of a caller and a callee, and the caller's way.
async fn two<R>(on_get: impl Fn(mercato_chassis::Call) -> R + Send + Sync + 'static) -> (Sandbox, Peer)
where
    R: Future<Output = Result<Product, Status>> + Send + 'static,
{
    let way = Arc::new(Mutex::new(None));
    let sandbox = Sandbox::of(vec![caller("doors", &way), role("doors", on_get)]).start().await.unwrap();
    let peer = way.lock().unwrap().clone().unwrap();
    (sandbox, peer)
}

#[tokio::test]
async fn a_role_in_the_same_process_is_called_through_all_layers() {
    let (_sandbox, peer) = two(|call| async move {
        assert_eq!(call.caller, Caller::Peer("caller".into()));
        Ok(Product { name: telemetry::trace_id().unwrap_or_default(), ..Product::default() })
    })
    .await;
    let span = tracing::info_span!(target: "mercato", "test");
    let trace = span.in_scope(telemetry::trace_id);
    let answer = tracing::Instrument::instrument(patiently("an answer", || ask(&peer)), span).await;
    assert_eq!(Some(answer.unwrap().name), trace, "the trace goes on");
}

#[tokio::test]
async fn a_reading_call_is_repeated_once() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let (_sandbox, peer) = two(move |_| {
        let nth = count.fetch_add(1, Ordering::SeqCst);
        async move { if nth == 0 { Err(Status::unavailable("not now")) } else { Ok(Product::default()) } }
    })
    .await;
    let in_time = || async {
        calls.store(0, Ordering::SeqCst);
        ask(&peer).await.ok()
    };
    eventually("an answer in time", LONG, in_time).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_refusal_is_not_repeated_and_comes_through() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let (_sandbox, peer) = two(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Err(status(Fault::NotAllowed("not for you".into()))) }
    })
    .await;
    let in_time = || async {
        calls.store(0, Ordering::SeqCst);
        ask(&peer).await.err().filter(|refused| !busy(refused))
    };
    let refused = eventually("a refusal in time", LONG, in_time).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert!(matches!(peer_fault(refused, "doors"), Fault::Remote(s) if s.code() == Code::PermissionDenied && s.message() == "not for you"));
}

#[tokio::test]
async fn a_call_within_a_call_has_less_time() {
    let way: Arc<Mutex<Option<Peer>>> = Arc::default();
    let inner = way.clone();
    let outer = role("outer", move |call| {
        let peer = inner.lock().unwrap().clone().unwrap();
        async move {
            let left = call.deadline - tokio::time::Instant::now();
            let answer = ProductServiceClient::new(peer).get_product(get()).await?.into_inner();
            Ok(Product { name: left.as_micros().to_string(), ..answer })
        }
    });
    let inner = role("doors", |call| async move {
        let description = call.metadata("grpc-timeout").unwrap_or_default().to_owned();
        Ok(Product { description, ..Product::default() })
    });
    let callee = Sandbox::of(vec![inner]).start().await.unwrap();
    let sandbox = Sandbox::of(vec![caller("doors", &way), outer])
        .env("MERCATO_PEER_DOORS", format!("http://{}", callee.grpc()))
        .env("MERCATO_PEER_SECRET", callee.env()["MERCATO_PEER_SECRET"].clone())
        .start()
        .await
        .unwrap();
    // Less than the contract's second, which would be a limit of its own; a busy machine may use it up.
    let in_time = || async {
        let mut request = Guest.request(get());
        request.metadata_mut().insert("grpc-timeout", "900m".parse().unwrap());
        products(&sandbox).get_product(request).await.ok()
    };
    let answer = eventually("an answer in time", LONG, in_time).await.into_inner();
    let (left, given) = (answer.name.parse::<u64>().unwrap(), answer.description.strip_suffix('u').unwrap().parse::<u64>().unwrap());
    assert!(given + 20_000 <= left && left <= 900_000, "{given} of {left} us");
}

#[tokio::test]
async fn of_two_processes_of_a_role_the_one_that_is_left_is_called() {
    let callee = |name: &'static str| role("doors", move |_| async move { Ok(Product { name: name.into(), ..Product::default() }) });
    let one = Sandbox::of(vec![callee("one")]).start().await.unwrap();
    let secret = one.env()["MERCATO_PEER_SECRET"].clone();
    let other = Sandbox::of(vec![callee("other")]).env("MERCATO_PEER_SECRET", secret.clone()).start().await.unwrap();
    let (way, urls) = (Arc::new(Mutex::new(None)), format!("http://{},http://{}", one.grpc(), other.grpc()));
    let caller = Sandbox::of(vec![caller("doors", &way)]).env("MERCATO_PEER_DOORS", urls).env("MERCATO_PEER_SECRET", secret);
    let _caller = caller.start().await.unwrap();
    let peer = way.lock().unwrap().clone().unwrap();
    let answers = async || patiently("an answer", || ask(&peer)).await.unwrap().name;
    let called = Mutex::new(BTreeSet::new());
    eventually("both are called", LONG, || async {
        let name = answers().await;
        let mut called = called.lock().unwrap();
        called.insert(name);
        (called.len() == 2).then_some(())
    })
    .await;
    let (ends, stays) = if answers().await == "one" { (one, "other") } else { (other, "one") };
    assert!(ends.stop().await);
    assert_eq!(answers().await, stays);
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_waited_for_until_the_deadline() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (way, address) = (Arc::new(Mutex::new(None)), format!("http://{}", silent.local_addr().unwrap()));
    let _sandbox = Sandbox::of(vec![caller("doors", &way)]).env("MERCATO_PEER_DOORS", address).start().await.unwrap();
    let peer = way.lock().unwrap().clone().unwrap();
    // On a machine that stands still a while the way to it may not be open in time.
    let failed = || async { ask(&peer).await.err().filter(|failed| failed.code() != Code::Unavailable) };
    let failed = eventually("the call", LONG, failed).await;
    assert_eq!(failed.code(), Code::DeadlineExceeded, "a client's own timeout says so, and not CANCELLED: {failed:?}");
}

#[tokio::test]
async fn a_peer_that_is_gone_is_unavailable_and_soon_refused() {
    let way = Arc::new(Mutex::new(None));
    // Nothing listens on port 1.
    let sandbox = Sandbox::of(vec![caller("gone", &way)]).env("MERCATO_PEER_GONE", "http://127.0.0.1:1").start().await.unwrap();
    let peer = way.lock().unwrap().clone().unwrap();
    eventually("the breaker opens", LONG, || async {
        let failed = ask(&peer).await.unwrap_err();
        assert!(matches!(failed.code(), Code::Unavailable | Code::DeadlineExceeded), "{failed:?}");
        (value(&admin(&sandbox, "/metrics").await, "mercato_peer_refused_total{peer=\"gone\"}") > 0.0).then_some(())
    })
    .await;
}

struct Lost;

impl Role for Lost {
    fn name(&self) -> &'static str {
        "lost"
    }

    fn configure(&self, _: &mut Source) -> Box<dyn Prepared> {
        Box::new(Lost)
    }
}

#[async_trait]
impl Prepared for Lost {
    async fn start(self: Box<Self>, ctx: Context) -> Result<Mounted, Fault> {
        ctx.peers.get("nowhere");
        Ok(Mounted::new())
    }
}

#[tokio::test]
async fn a_peer_without_an_address_is_told_at_start() {
    let platform = mercato_chassis::Platform { roles: vec![Box::new(Lost)], key_source: |_| Arc::new(TestKeys::shared()), topics: &[] };
    let env = [("MERCATO_PEER_SECRET", "0123456789abcdef"), ("MERCATO_GRPC_ADDR", "127.0.0.1:0"), ("MERCATO_ADMIN_ADDR", "127.0.0.1:0")];
    let env = env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    match boot::start(platform, &["all".to_owned()], env).await {
        Err(StartError::Config(errors)) => assert!(errors[0].starts_with("MERCATO_PEER_NOWHERE"), "{errors:?}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it must not start"),
    }
}
