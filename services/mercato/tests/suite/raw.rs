//! HTTP as it is on the wire: what a client library would hide.

use super::{
    door, fresh, settled_but,
    shop::shop,
    shopper::{Shopper, account, order, text, with},
    until,
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

    let (mut stream, first) = settled_but(not_now, async || {
        let mut stream = connect().await;
        send(&mut stream, "POST", "/auth/logout", &[("content-type", "application/json")], &body).await;
        let first = head(&mut stream).await;
        (stream, first)
    })
    .await;
    assert!(first.starts_with("http/1.1 204"), "{first}");
    assert!(!first.contains("content-length") && !first.contains("transfer-encoding") && !first.contains("x-http-code"), "{first}");
    // whatever it says: the connection carries it
    send(&mut stream, "GET", "/api/products?pageSize=1", &[("connection", "close")], "").await;
    let second = head(&mut stream).await;
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("the rest");
    let answered = second.starts_with("http/1.1 200") && rest.contains("\"products\"");
    assert!(answered || not_now(&((), second.clone())), "{second}{rest}");
}

/// Whether the head of an answer only says that it cannot be now.
fn not_now<T>((_, head): &(T, String)) -> bool {
    head.starts_with("http/1.1 503") || head.starts_with("http/1.1 504")
}

async fn a_watch_is_a_stream_of_events() {
    let door = door::rest();
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let token = format!("Bearer {}", anna.token.as_deref().expect("a token"));
    let headers = [("authorization", token.as_str()), ("accept", "text/event-stream"), ("connection", "close")];
    // on a busy machine the payment may be there before the first event is; one that never comes before it is held back
    let (mut stream, mut seen) = until("the first event while the order is pending", async || {
        let product = staff.product("2.00", 2).await;
        let slow = with(order(&[(&product, 1)]), json!({ "paymentToken": "tok_slow" }));
        let id = text(&anna.place_order(slow).await.expect("an order").body["id"]);
        let (mut stream, answer) = settled_but(not_now, async || {
            let mut stream = connect().await;
            send(&mut stream, "GET", &format!("/api/orders/{id}:watch"), &headers, "").await;
            let answer = head(&mut stream).await;
            (stream, answer)
        })
        .await;
        assert!(answer.starts_with("http/1.1 200") && answer.contains("content-type: text/event-stream"), "{answer}");
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("\n\n") {
            seen.push(stream.read_u8().await.expect("the first event"));
        }
        let now = anna.get_order(&id).await.expect("my order").body;
        (now["status"] == "PENDING").then_some((stream, seen))
    })
    .await;
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
    let key = fresh("spoof-");
    let headers = [
        ("x-http-code", "204"),
        ("x-envoy-original-path", "/api/products"),
        ("x-envoy-original-method", "GET"),
        ("idempotency-key", key.as_str()),
        ("connection", "close"),
    ];
    let (_, answer) = settled_but(not_now, async || {
        let mut stream = connect().await;
        send(&mut stream, "GET", "/api/products?pageSize=1", &headers, "").await;
        let answer = head(&mut stream).await;
        (stream, answer)
    })
    .await;
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
}
