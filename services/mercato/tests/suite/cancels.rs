//! Clients that leave: their neighbours on the shared connections to the services must not notice.

use super::{
    door,
    grpc::{channel, with_headers},
    shop::shop,
    shopper::{Shopper, order, text, with},
    until,
};
use futures_util::StreamExt as _;
use mercato_contracts::mercato::ordering::v1::{WatchOrderRequest, order_service_client::OrderServiceClient};
use serde_json::{Value, json};
use tonic::Request;

alone!(of_two_hundred_calls_harm_nobody);

/// Opens a watch and waits for its first message.
async fn watch(channel: tonic::transport::Channel, ask: &door::Ask, order_id: String) -> tonic::Streaming<impl Sized> {
    let request = with_headers(Request::new(WatchOrderRequest { order_id, after_version: 0 }), ask);
    let mut stream = OrderServiceClient::new(channel).watch_order(request).await.expect("a stream").into_inner();
    stream.message().await.expect("a stream").expect("the order as it is");
    stream
}

async fn of_two_hundred_calls_harm_nobody() {
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
    let neighbours = futures_util::stream::iter((0..100).map(|_| anna.get_order(&id))).buffer_unordered(4).collect::<Vec<_>>();
    let (answers, ()) = tokio::join!(neighbours, async { drop(streams) });
    for answer in answers {
        answer.expect("a neighbour is not harmed");
    }

    // and the same with calls that end before there is an answer
    for _ in 0..20 {
        let mut leaving = futures_util::future::join_all((0..10).map(|_| anna.orders()));
        assert!(futures_util::poll!(&mut leaving).is_pending());
        tokio::task::yield_now().await;
        drop(leaving);
        anna.get_order(&id).await.expect("a neighbour is not harmed");
    }
    until("the order is settled", async || (anna.get_order(&id).await.ok()?.body["status"] == "PAID").then_some(())).await;
}
