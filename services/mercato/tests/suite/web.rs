//! gRPC-Web, framed by hand as a browser does it: HTTP/1.1, a length before the message, trailers as a last frame.

use super::{door, fresh, settled_but, shop::shop, shopper::Shopper};
use mercato_contracts::mercato::{
    ordering::v1::{GetOrderRequest, Order, PlaceOrderItem, PlaceOrderRequest},
    r#type::v1::Address,
};
use prost::Message;
use tonic::Code;

alone!(browsers_place_and_read_orders, browsers_are_told_why_not, browsers_may_come_from_our_own_pages_only);

/// What a unary call over gRPC-Web brings back.
struct Web {
    http: u16,
    message: Option<Vec<u8>>,
    trailers: String,
}

fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).expect("a small message").to_be_bytes();
    [&[0], length.as_slice(), &bytes].concat()
}

/// Calls until the answer says more than that it cannot be now.
async fn call(path: &str, token: &str, key: Option<&str>, message: &impl Message) -> Web {
    let not_now = [Code::DeadlineExceeded, Code::ResourceExhausted, Code::Aborted, Code::Unavailable]
        .map(|code| format!("grpc-status:{}\r", code as i32));
    settled_but(
        |told: &Web| not_now.iter().any(|status| told.trailers.contains(status)),
        async || call_once(path, token, key, message).await,
    )
    .await
}

async fn call_once(path: &str, token: &str, key: Option<&str>, message: &impl Message) -> Web {
    let mut request = reqwest::Client::new()
        .post(format!("{}{path}", shop().edge))
        .header("content-type", "application/grpc-web+proto")
        .header("x-grpc-web", "1")
        .header("origin", "http://localhost:5173")
        .bearer_auth(token)
        .body(framed(message));
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let answer = request.send().await.expect("an answer");
    let http = answer.status().as_u16();
    assert_eq!(answer.version(), reqwest::Version::HTTP_11);
    let head: String = answer.headers().iter().map(|(name, value)| format!("{name}:{}\r\n", value.to_str().unwrap_or_default())).collect();
    let body = answer.bytes().await.expect("a whole answer");
    let (mut message, mut trailers, mut rest) = (None, head, body.as_ref());
    while let Some((&flag, tail)) = rest.split_first() {
        let (length, tail) = tail.split_first_chunk::<4>().expect("a length");
        let (frame, tail) = tail.split_at(usize::try_from(u32::from_be_bytes(*length)).expect("a length"));
        if flag & 0x80 == 0 {
            message = Some(frame.to_vec());
        } else {
            trailers.push_str(std::str::from_utf8(frame).expect("trailers are text"));
        }
        rest = tail;
    }
    Web { http, message, trailers }
}

async fn browsers_place_and_read_orders() {
    let door = door::rest();
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let token = anna.token.clone().expect("a token");
    let product_id = staff.product("7.00", 3).await;
    let request = PlaceOrderRequest {
        items: vec![PlaceOrderItem { product_id, quantity: 1, price: Some(7.0) }],
        shipping_address: Some(Address {
            street: "Hauptstrasse 5".into(),
            city: "Koeln".into(),
            zip_code: "50667".into(),
            ..Address::default()
        }),
        payment_method: "credit_card".into(),
        ..PlaceOrderRequest::default()
    };
    let placed = call("/mercato.ordering.v1.OrderService/PlaceOrder", &token, Some(&fresh("web-")), &request).await;
    assert_eq!(placed.http, 200, "gRPC-Web knows no other status of a success: {}", placed.trailers);
    assert!(placed.trailers.contains("grpc-status:0"), "{}", placed.trailers);
    let placed = Order::decode(placed.message.expect("a message").as_slice()).expect("an order");
    let asked = GetOrderRequest { order_id: placed.id.clone() };
    let read = call("/mercato.ordering.v1.OrderService/GetOrder", &token, None, &asked).await;
    let read = Order::decode(read.message.expect("a message").as_slice()).expect("an order");
    assert_eq!((read.id, read.total_amount), (placed.id, placed.total_amount));
}

async fn browsers_are_told_why_not() {
    let token = shop().signer.good(&[]);
    let refused = call("/mercato.ordering.v1.OrderService/GetOrder", &token, None, &GetOrderRequest { order_id: "x".into() }).await;
    assert_eq!(refused.http, 200);
    assert!(refused.message.is_none());
    assert!(refused.trailers.contains("grpc-status:3") && refused.trailers.contains("grpc-status-details-bin"), "{}", refused.trailers);
}

async fn browsers_may_come_from_our_own_pages_only() {
    let ask = async |origin: &str| {
        let url = format!("{}/api/orders", shop().edge);
        let request = reqwest::Client::new()
            .request(reqwest::Method::OPTIONS, url)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization, idempotency-key");
        let answer = request.send().await.expect("an answer");
        answer.headers().get("access-control-allow-origin").map(|value| value.to_str().expect("text").to_owned())
    };
    assert_eq!(ask("http://localhost:5173").await.as_deref(), Some("http://localhost:5173"));
    assert_eq!(ask("https://elsewhere.example").await, None);
}
