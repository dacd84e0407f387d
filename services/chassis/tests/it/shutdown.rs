//! The end of a process.

use crate::{
    LONG,
    doors::{ID, STUCK, get, plain, products, products_once, role},
};
use mercato_contracts::mercato::{
    catalog::v1::{Product, product_service_client::ProductServiceClient},
    ordering::v1::{WatchOrderRequest, order_service_client::OrderServiceClient, watch_order_response::Event},
};
use mercato_testkit::{Actor as _, Customer, Guest, Patient, Sandbox, eventually};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::{net::TcpStream, sync::Semaphore, time::timeout};
use tonic::{Code, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

#[tokio::test]
async fn a_client_that_says_nothing_does_not_hold_it_up() {
    let sandbox =
        Sandbox::of(vec![role("doors", |_| async { Ok(Product::default()) })]).env("MERCATO_DRAIN_MS", "600000").start().await.unwrap();
    let silent = TcpStream::connect(sandbox.grpc()).await.unwrap();
    let silent_admin = TcpStream::connect(sandbox.admin().unwrap()).await.unwrap();
    products(&sandbox).get_product(Guest.request(get())).await.unwrap();
    assert!(timeout(LONG, sandbox.stop()).await.expect("shutdown must end by itself"));
    drop((silent, silent_admin));
}

/// The answer to a call that runs while the process stops; none where the contract's second was over first.
async fn answered_while_stopping() -> Option<Product> {
    let (gate, entered) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicBool::new(false)));
    let (held, says) = (gate.clone(), entered.clone());
    let waits = role("doors", move |_| {
        let (held, says) = (held.clone(), says.clone());
        async move {
            says.store(true, Ordering::SeqCst);
            held.acquire().await.unwrap().forget();
            Ok(Product { name: "late".into(), ..Product::default() })
        }
    });
    let sandbox = Sandbox::of(vec![waits]).start().await.unwrap();
    let mut client = products_once(&sandbox);
    let call = tokio::spawn(async move { client.get_product(Guest.request(get())).await });
    while !entered.load(Ordering::SeqCst) && !call.is_finished() {
        tokio::task::yield_now().await;
    }
    let (stopped, answer) = tokio::join!(sandbox.stop(), async {
        gate.add_permits(1);
        call.await.unwrap()
    });
    assert!(stopped);
    match answer {
        Err(late) if late.code() == Code::DeadlineExceeded => None,
        answer => Some(answer.unwrap().into_inner()),
    }
}

#[tokio::test]
async fn a_call_that_runs_is_answered() {
    let answer = eventually("an answer in time", LONG, answered_while_stopping).await;
    assert_eq!(answer.name, "late");
}

#[tokio::test]
async fn streams_end_with_an_end() {
    let sandbox = plain().await;
    let mut client = OrderServiceClient::new(sandbox.channel());
    let watch = WatchOrderRequest { order_id: ID.into(), ..Default::default() };
    let mut stream = client.watch_order(Customer::new().request(watch)).await.unwrap().into_inner();
    assert!(matches!(stream.message().await.unwrap().unwrap().event, Some(Event::Heartbeat(_))));
    let (stopped, last) = tokio::join!(sandbox.stop(), async {
        let last = stream.message().await.unwrap().unwrap().event;
        assert!(stream.message().await.unwrap().is_none());
        last
    });
    assert!(matches!(last, Some(Event::End(_))));
    assert!(stopped);
}

#[tokio::test]
async fn a_handler_that_never_ends_is_left_behind_at_the_limit() {
    let sandbox =
        Sandbox::of(vec![role("doors", |_| async { Ok(Product::default()) })]).env("MERCATO_DRAIN_MS", "50").start().await.unwrap();
    let mut client = OrderServiceClient::new(sandbox.channel());
    let watch = WatchOrderRequest { order_id: STUCK.into(), ..Default::default() };
    let mut stream = client.watch_order(Customer::new().request(watch)).await.unwrap().into_inner();
    assert!(matches!(stream.message().await.unwrap().unwrap().event, Some(Event::Heartbeat(_))));
    let clean = timeout(LONG, sandbox.stop()).await.expect("the limit must hold");
    assert!(!clean, "work was left behind");
}

#[tokio::test]
async fn a_lame_duck_says_so_and_still_takes_calls() {
    let sandbox = Sandbox::of(vec![role("doors", |_| async { Ok(Product::default()) })]);
    let sandbox = sandbox.env("MERCATO_LAME_DUCK_MS", "60000").start().await.unwrap();
    let (address, mut health) = (format!("http://{}", sandbox.grpc()), HealthClient::new(sandbox.channel()));
    let ending = tokio::spawn(sandbox.stop());
    while health.check(HealthCheckRequest::default()).await.unwrap().into_inner().status() == ServingStatus::Serving {
        tokio::task::yield_now().await;
    }
    // such a connection is made by a load balancer that has not heard yet
    let late = Patient::over(Endpoint::from_shared(address).unwrap().connect_lazy());
    ProductServiceClient::new(late).get_product(Guest.request(get())).await.expect("calls are taken until the pause is over");
    assert!(!ending.is_finished(), "the pause was cut short");
    ending.abort();
}
