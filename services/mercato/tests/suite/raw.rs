//! HTTP as it is on the wire: what a client library would hide.

use super::{
    door, fresh,
    shop::shop,
    shopper::{Shopper, account, order, text, with},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

alone!(a_204_leaves_the_connection_usable, a_watch_is_a_stream_of_events, spoofed_headers_change_nothing);

async fn connect() -> TcpStream {
    TcpStream::connect(shop().edge.trim_start_matches("http://")).await.expect("the edge")
}

/// Sends a request; the body may be empty.
async fn send(stream: &mut TcpStream, verb: &str, path: &str, headers: &[(&str, &str)], body: &str) {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let text = format!("{verb} {path} HTTP/1.1\r\nhost: shop\r\ncontent-length: {}\r\n{lines}\r\n{body}", body.len());
    stream.write_all(text.as_bytes()).await.expect("the request is sent");
}

/// Reads the head of an answer, and not a byte more.
async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.expect("the rest of the head"));
    }
    String::from_utf8(bytes).expect("text").to_lowercase()
}

async fn a_204_leaves_the_connection_usable() {
    let guest = Shopper::guest(&door::rest());
    let account = account();
    guest.ask("RegisterCustomer", account.clone()).await.expect("an account");
    let login = json!({ "email": account["email"], "password": account["password"] });
    let refresh = guest.ask("Login", login).await.expect("a login").body["refresh_token"].clone();
    let body = json!({ "refresh_token": refresh }).to_string();

    let mut stream = connect().await;
    send(&mut stream, "POST", "/auth/logout", &[("content-type", "application/json")], &body).await;
    let first = head(&mut stream).await;
    assert!(first.starts_with("http/1.1 204"), "{first}");
    assert!(!first.contains("content-length") && !first.contains("transfer-encoding") && !first.contains("x-http-code"), "{first}");
    send(&mut stream, "GET", "/api/products?pageSize=1", &[("connection", "close")], "").await;
    let second = head(&mut stream).await;
    assert!(second.starts_with("http/1.1 200"), "{second}");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("the rest");
    assert!(rest.contains("\"products\""), "{rest}");
}

async fn a_watch_is_a_stream_of_events() {
    let door = door::rest();
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("2.00", 2).await;
    let slow = with(order(&[(&product, 1)]), json!({ "paymentToken": "tok_slow" }));
    let id = text(&anna.place_order(slow).await.expect("an order").body["id"]);
    let token = format!("Bearer {}", anna.token.as_deref().expect("a token"));

    let mut stream = connect().await;
    let path = format!("/api/orders/{id}:watch");
    send(&mut stream, "GET", &path, &[("authorization", &token), ("accept", "text/event-stream"), ("connection", "close")], "").await;
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("http/1.1 200") && answer.contains("content-type: text/event-stream"), "{answer}");
    // the order as it is now arrives before anything else happens
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("\n\n") {
        seen.push(stream.read_u8().await.expect("the first event"));
    }
    let before = anna.get_order(&id).await.expect("my order").body;
    assert_eq!(before["status"], "PENDING", "the first event came late");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("the rest of the stream");
    seen.extend(rest);
    let text = String::from_utf8(seen).expect("text");
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.trim_end().strip_prefix("data:"))
        .map(|data| serde_json::from_str(data).expect("JSON"))
        .collect();
    assert_eq!(events.first().map(|event| event["order"]["status"].clone()), Some(json!("PENDING")));
    assert_eq!(events.last().map(|event| event["end"]["reason"].clone()), Some(json!("SETTLED")), "{text}");
}

/// A client can neither choose the status nor pretend to be transcoded.
async fn spoofed_headers_change_nothing() {
    let mut stream = connect().await;
    let key = fresh("spoof-");
    let headers = [
        ("x-http-code", "204"),
        ("x-envoy-original-path", "/api/products"),
        ("x-envoy-original-method", "GET"),
        ("idempotency-key", key.as_str()),
        ("connection", "close"),
    ];
    send(&mut stream, "GET", "/api/products?pageSize=1", &headers, "").await;
    let answer = head(&mut stream).await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
}
