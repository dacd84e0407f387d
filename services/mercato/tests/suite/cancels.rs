//! Clients that leave: their neighbours on the shared connections to the services must not notice.

use super::{
    door::{self, Door},
    grpc::{channel, refused, with_headers},
    settled,
    shop::shop,
    shopper::{Shopper, order, text, with},
    until,
};
use futures_util::StreamExt as _;
use mercato_contracts::mercato::ordering::v1::{WatchOrderRequest, order_service_client::OrderServiceClient};
use serde_json::{Value, json};
use std::sync::Arc;
use tonic::Request;

alone!(of_two_hundred_calls_harm_nobody);

/// Opens a watch and waits for its first message.
async fn watch(channel: tonic::transport::Channel, ask: &door::Ask, order_id: String) -> tonic::Streaming<impl Sized> {
    let open = settled(async || {
        let request = with_headers(Request::new(WatchOrderRequest { order_id: order_id.clone(), after_version: 0 }), ask);
        let opened = OrderServiceClient::new(channel.clone()).watch_order(request).await;
        let mut stream = opened.map_err(|status| refused(&status))?.into_inner();
        stream.message().await.map_err(|status| refused(&status))?.expect("the order as it is");
        Ok(stream)
    });
    open.await.expect("a stream")
}

/// Whether a neighbour who asks once is served. One who was hung up on would be told the same as one for whom there is no time; hence
/// [`lost`].
async fn asked_once(door: &Arc<dyn Door>, neighbour: &Shopper, id: &str) -> bool {
    let ask = door::Ask { method: "GetOrder", body: json!({ "orderId": id }), token: neighbour.token.clone(), key: None };
    match door.ask(ask).await {
        Err(refused) => {
            assert!(refused.passing(), "a neighbour is not harmed: {refused:?}");
            false
        }
        Ok(_) => true,
    }
}

/// How often the services have closed a connection on which Envoy had calls under way.
async fn lost() -> u64 {
    let url = format!("{}/stats?filter=upstream_cx_destroy_remote_with_active_rq", shop().edge_admin);
    let stats = reqwest::get(url).await.expect("an answer").text().await.expect("text");
    let counts: Vec<u64> = stats.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    assert!(!counts.is_empty(), "no such count: {stats}");
    counts.iter().sum()
}

async fn of_two_hundred_calls_harm_nobody() {
    // a service ends a connection when it is five minutes old, or silent for too long, which is not to be blamed on the calls
    until("a round in which no service hangs up on calls under way", async || (two_hundred_calls_end().await == 0).then_some(())).await;
}

/// Ends two hundred streams, and two hundred calls before they are answered. Returns on how many connections a service hung up.
async fn two_hundred_calls_end() -> u64 {
    let door = door::grpc();
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("2.00", 2).await;
    let slow = with(order(&[(&product, 1)]), json!({ "paymentToken": "tok_slow" }));
    let id = text(&anna.place_order(slow).await.expect("an order").body["id"]);
    let ask = door::Ask { method: "WatchOrder", body: Value::Null, token: anna.token.clone(), key: None };

    // Envoy lets a client have a hundred streams on a connection
    let channels: Vec<_> = (0..4).map(|_| channel(&shop().edge)).collect();
    let open = (0..200).map(|n| watch(channels[n % channels.len()].clone(), &ask, id.clone()));
    let streams: Vec<_> = futures_util::stream::iter(open).buffer_unordered(2).collect().await;
    assert_eq!(streams.len(), 200);
    let (before, neighbour) = (lost().await, || asked_once(&door, &anna, &id));
    let neighbours = futures_util::stream::iter((0..100).map(|_| neighbour())).buffer_unordered(4).collect::<Vec<_>>();
    let (answers, ()) = tokio::join!(neighbours, async { drop(streams) });
    assert!(answers.contains(&true), "nobody was served");

    // and the same with calls that end before there is an answer
    for _ in 0..20 {
        let mut leaving = futures_util::future::join_all((0..10).map(|_| anna.orders()));
        assert!(futures_util::poll!(&mut leaving).is_pending());
        tokio::task::yield_now().await;
        drop(leaving);
        neighbour().await;
    }
    until("the order is settled", async || (anna.get_order(&id).await.ok()?.body["status"] == "PAID").then_some(())).await;
    lost().await - before
}
