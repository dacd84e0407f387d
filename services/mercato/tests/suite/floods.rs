//! Too much of everything: bodies, headers, pages, lines, requests. Each at its limit, one beyond, and a thousand times.

use super::{
    door, fresh,
    garbage::call,
    grpc::channel,
    inputs::{World, still_served, varint},
    rest::{self, reply},
    settled_but,
    shop::shop,
    shopper::order,
    state,
};
use futures_util::StreamExt as _;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use std::time::Instant;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

one_at_a_time!(
    of_bytes_in_a_body_are_refused_at_the_limit,
    of_headers_are_refused,
    of_lines_and_pages_are_refused,
    of_changes_by_one_are_slowed_down_and_nobody_else_is,
    of_sign_ins_are_slowed_down,
);

/// The largest body of a request, in bytes.
const BODY: usize = 256 * 1024;

fn post(path: &str, token: &str) -> RequestBuilder {
    let request = Client::new().post(format!("{}{path}", shop().edge)).bearer_auth(token).header("idempotency-key", fresh("flood-"));
    request.header("content-type", "application/json")
}

/// A product whose description fills the body up to this many bytes.
fn product(bytes: usize) -> String {
    let body = |text: &str| json!({ "name": "Pot", "category": "suite", "description": text }).to_string();
    body(&"x".repeat(bytes - body("").len()))
}

/// Resident memory of a process in KiB.
fn memory(name: &str) -> u64 {
    let (_, process) = shop().processes.iter().find(|(known, _)| *known == name).expect("a process of ours");
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.split_whitespace().next().expect("a number").parse().expect("a number")
}

async fn of_bytes_in_a_body_are_refused_at_the_limit() {
    let world = World::new(&door::rest()).await;
    let token = shop().signer.good(&["staff"]);
    let before = state::at_rest().await;
    for (bytes, status) in [(BODY, 400), (BODY + 1, 413)] {
        let answer = reply(post("/api/products", &token).body(product(bytes))).await.expect("an answer");
        assert_eq!(answer.status, status, "{bytes} bytes");
        let refused = rest::refused(status, &answer.bytes);
        assert_eq!(refused.reason, "REQUEST_INVALID");
        if status == 400 {
            assert!(refused.fields.contains(&"description".to_owned()), "{refused:?}");
        }
    }
    let grown = (memory("envoy"), memory("mercato"));
    for sized in [true, false] {
        let head = beyond_measure(&token, sized).await;
        assert!(head.starts_with("http/1.1 413"), "{head}");
    }
    let grown = (memory("envoy").saturating_sub(grown.0), memory("mercato").saturating_sub(grown.1));
    assert!(grown.0 < 64 * 1024 && grown.1 < 64 * 1024, "KiB more in envoy and mercato: {grown:?}");
    // and over gRPC, which has no 413
    let channel = channel(&shop().edge);
    for bytes in [BODY + 1, 4 * BODY] {
        let text = vec![b'x'; bytes];
        let message = [&[0x12_u8][..], &varint(text.len() as u64), &text].concat();
        let refused = call(&channel, door::method("CreateProduct"), Some(token.clone()), message).await.expect_err("too large");
        assert_eq!(refused.code, Code::InvalidArgument, "{bytes} bytes: {refused:?}");
    }
    state::unchanged(&before, &state::at_rest().await);
    still_served(&world).await;
}

/// Sends a body a thousand times the limit, or as much of it as is taken, and reads the head of the answer.
async fn beyond_measure(token: &str, sized: bool) -> String {
    let stream = TcpStream::connect(shop().edge.trim_start_matches("http://")).await.expect("the edge");
    let (mut read, mut write) = stream.into_split();
    let (key, total) = (fresh("flood-"), BODY * 1000);
    let length = if sized { format!("content-length: {total}") } else { "transfer-encoding: chunked".to_owned() };
    let head = format!(
        "POST /api/products HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {token}\r\nidempotency-key: {key}\r\n\
         content-type: application/json\r\n{length}\r\n\r\n"
    );
    write.write_all(head.as_bytes()).await.expect("the head is sent");
    let send = async move {
        let chunk = [b'x'; 16 * 1024];
        for _ in 0..total / chunk.len() {
            let sent = if sized {
                write.write_all(&chunk).await
            } else {
                write.write_all(&[format!("{:x}\r\n", chunk.len()).as_bytes(), &chunk, b"\r\n"].concat()).await
            };
            // the edge has answered and hung up
            if sent.is_err() {
                return;
            }
        }
    };
    let receive = async move {
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        loop {
            match read.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(some) => answer.extend_from_slice(&part[..some]),
            }
        }
        String::from_utf8_lossy(&answer).to_lowercase()
    };
    tokio::join!(send, receive).1
}

async fn of_headers_are_refused() {
    let get = |name: &str, value: String| Client::new().get(format!("{}/api/categories", shop().edge)).header(name.to_owned(), value);
    for (bytes, status) in [(8 * 1024, 200), (17 * 1024, 431)] {
        let answer = reply(get("x-padding", "x".repeat(bytes))).await.expect("an answer");
        assert_eq!(answer.status, status, "{bytes} bytes of headers");
    }
    for (many, status) in [(40, 200), (100, 431)] {
        let mut request = Client::new().get(format!("{}/api/categories", shop().edge));
        for number in 0..many {
            request = request.header(format!("x-padding-{number}"), "x");
        }
        assert_eq!(reply(request).await.expect("an answer").status, status, "{many} headers");
    }
    let answer = reply(get("x_underscore", "1".into())).await.expect("an answer");
    assert_eq!(answer.status, 400);
}

async fn of_lines_and_pages_are_refused() {
    let world = World::new(&door::rest()).await;
    let get = async |query: &str| {
        let answer = reply(Client::new().get(format!("{}/api/products?{query}", shop().edge))).await.expect("an answer");
        (answer.status, serde_json::from_slice::<Value>(&answer.bytes).expect("JSON"))
    };
    let (status, page) = get("pageSize=100000").await;
    let products = page["products"].as_array().expect("a list").len();
    assert!(status == 200 && products <= 100, "{products} products on a page");
    for size in ["100001", "2147483647", "2147483648", "-1"] {
        assert_eq!(get(&format!("pageSize={size}")).await.0, 400, "{size}");
    }
    assert_eq!(get(&format!("pageToken={}", "x".repeat(512))).await.1["code"], 3);
    assert_eq!(get(&format!("pageToken={}", "x".repeat(513))).await.0, 400);
    let id = super::signer::subject;
    for (lines, reason) in [(100, "PRODUCT_NOT_FOUND"), (101, "REQUEST_INVALID"), (1500, "REQUEST_INVALID")] {
        let ids: Vec<String> = (0..lines).map(|_| id()).collect();
        let wanted: Vec<(&str, i32)> = ids.iter().map(|id| (id.as_str(), 1)).collect();
        let refused = world.owner.place_order(order(&wanted)).await.expect_err("unknown products");
        assert_eq!(refused.reason, reason, "{lines} lines: {refused:?}");
    }
    for (quantity, good) in [(999, true), (1000, false), (i32::MAX, false), (0, false), (-1, false)] {
        let answer = world.owner.place_order(order(&[(&world.product, quantity)])).await;
        let reason = answer.as_ref().err().map(|refused| refused.reason.clone()).unwrap_or_default();
        assert_eq!(reason != "REQUEST_INVALID", good, "{quantity}: {answer:?}");
    }
}

/// The changes that one subject may make at once in this shop.
const BURST: usize = 1500;

/// How often Envoy had no answer in time to whether there is a limit.
async fn let_pass() -> u64 {
    let url = format!("{}/stats?filter=ratelimit.*failure_mode_allowed", shop().edge_admin);
    let stats = reqwest::get(url).await.expect("an answer").text().await.expect("text");
    stats.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Redis is gone in this shop: the limits hold all the same. Where the limits have no time to answer, Envoy lets a change pass: none is
/// slowed down too early, and but for those no more pass than may.
async fn of_changes_by_one_are_slowed_down_and_nobody_else_is() {
    let (mine, other) = (shop().signer.good(&[]), shop().signer.good(&[]));
    let client = Client::new();
    let cancel = async |token: &str| {
        let url = format!("{}/api/orders/{}:cancel", shop().edge, super::signer::subject());
        let request = client.post(url).bearer_auth(token).header("idempotency-key", fresh("flood-")).json(&json!({}));
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.headers().get("retry-after").is_some(), answer.bytes().await.expect("a whole answer"))
    };
    let (began, before) = (Instant::now(), let_pass().await);
    let (mut asked, mut slowed) = (0, Vec::new());
    while slowed.len() < 100 && asked < 20 * BURST {
        asked += 100;
        let answers = futures_util::stream::iter((0..100).map(|_| cancel(&mine))).buffer_unordered(4);
        let answers: Vec<_> = answers.collect().await;
        // those without an answer were let pass as well
        assert!(answers.iter().all(|(status, ..)| [404, 429, 503, 504].contains(status)), "other answers than these");
        slowed.extend(answers.into_iter().filter(|(status, ..)| *status == 429));
    }
    assert!(slowed.len() >= 100, "{} of {asked} were slowed down", slowed.len());
    // one more a second
    let most = BURST + usize::try_from(began.elapsed().as_secs() + 2 + let_pass().await - before).expect("a small number");
    assert!((BURST..=most).contains(&(asked - slowed.len())), "{} of {asked} were slowed down", slowed.len());
    for (_, retry_after, body) in slowed {
        assert_eq!((retry_after, rest::refused(429, &body).reason.as_str()), (true, "RATE_LIMITED"));
    }
    let told = settled_but(|(status, ..): &(u16, _, _)| matches!(status, 503 | 504), async || cancel(&other).await).await;
    assert_eq!(told.0, 404, "somebody else is not slowed down");
}

/// Fifty guesses at a password that is there, and at one that is not: the same answers, and after five of them few are looked at: one after
/// half a minute, the next after twice as long.
async fn of_sign_ins_are_slowed_down() {
    let world = World::new(&door::rest()).await;
    let profile =
        Client::new().get(format!("{}/api/customers/me", shop().edge)).bearer_auth(world.owner.token.as_deref().expect("a token"));
    let profile: Value = serde_json::from_slice(&reply(profile).await.expect("an answer").bytes).expect("JSON");
    let known = profile["username"].as_str().expect("a name").to_owned();
    for name in [known, fresh("nobody-")] {
        state::forget_failed_logins().await;
        let (began, mut told, mut unheard) = (Instant::now(), Vec::new(), 0);
        for _ in 0..50 {
            let body = json!({ "username": name, "password": "a wrong password" });
            let answer = Client::new().post(format!("{}/auth/login", shop().edge)).json(&body).send().await.expect("an answer");
            let status = answer.status().as_u16();
            let refused = rest::refused(status, &answer.bytes().await.expect("a whole answer"));
            // counted, perhaps, before there was no time for an answer
            if refused.passing() {
                unheard += 1;
            } else {
                told.push((status, refused.reason));
            }
        }
        let looked_at = told.iter().filter(|told| **told == (401, "CREDENTIALS_INVALID".into())).count();
        let slowed = told.iter().filter(|told| **told == (429, "LOGIN_THROTTLED".into())).count();
        assert_eq!(looked_at + slowed, told.len(), "{told:?}");
        let later = usize::try_from(began.elapsed().as_secs() / 30).expect("a small number");
        assert!(looked_at + unheard >= 5 && looked_at <= 5 + later, "{looked_at} looked at, {unheard} not heard: {told:?}");
        assert!(told.iter().take(5 - unheard.min(5)).all(|(status, _)| *status == 401), "slowed down too early: {told:?}");
    }
}
