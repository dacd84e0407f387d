//! The provider over HTTP: what it answered it keeps, once for every key.

use mercato_provider::{Options, Server};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Longer than anything takes on any machine.
const LONG: std::time::Duration = std::time::Duration::from_secs(120);

fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("mercato-provider-{}", uuid::Uuid::now_v7()))
}

/// Stops a provider and removes what it kept.
async fn end(server: Server, data: &Path) {
    server.stop().await;
    std::fs::remove_dir_all(data).expect("the provider's folder");
}

async fn start(data: &Path) -> Server {
    let options = Options { address: ([127, 0, 0, 1], 0).into(), data: data.to_owned(), webhook: None, tracer: None };
    mercato_provider::start(options).await.expect("the provider starts")
}

async fn call(server: &Server, path: &str, key: &str, body: &Value) -> (u16, Value) {
    let client = reqwest::Client::new();
    let answer = client.post(format!("{}{path}", server.url())).header("idempotency-key", key).json(body).send().await.expect("answer");
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

async fn look_up(server: &Server, reference: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("{}/v1/payments/{reference}", server.url())).await.expect("answer");
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

fn asked(reference: &str, token: &str) -> Value {
    json!({"reference": reference, "amountMinor": 2999, "currency": "EUR", "method": "card", "token": token})
}

#[tokio::test]
async fn steps_are_kept_over_a_restart() {
    let data = folder();
    let server = start(&data).await;
    let first = call(&server, "/v1/authorizations", "a:1", &asked("a", "tok_approve")).await;
    assert_eq!((first.0, first.1["state"].as_str()), (200, Some("authorized")));
    let sum = json!({"amountMinor": 2999, "currency": "EUR"});
    assert_eq!(call(&server, "/v1/authorizations/a/capture", "a:2", &sum).await.1["state"], "captured");
    assert_eq!(call(&server, "/v1/authorizations/a/void", "a:3", &Value::Null).await.0, 409);
    let back = json!({"refundReference": "r1", "amountMinor": 1000, "currency": "EUR"});
    assert_eq!(call(&server, "/v1/authorizations/a/refunds", "a:4", &back).await.1["state"], "refunded");
    server.stop().await;
    let ledger = data.join("ledger.jsonl");
    let mut torn = std::fs::read(&ledger).expect("ledger");
    torn.extend_from_slice(b"{\"sequence\": 5, \"torn");
    std::fs::write(&ledger, torn).expect("write");

    let server = start(&data).await;
    assert_eq!(call(&server, "/v1/authorizations", "a:1", &asked("a", "tok_approve")).await, first);
    assert_eq!(call(&server, "/v1/authorizations", "a:1", &asked("b", "tok_approve")).await.0, 422);
    let (_, seen) = look_up(&server, "a").await;
    assert_eq!((seen["capturedMinor"].as_i64(), seen["refundedMinor"].as_i64()), (Some(2999), Some(1000)));
    assert_eq!(
        call(&server, "/v1/authorizations/a/refunds", "a:5", &json!({"refundReference": "r2", "amountMinor": 2000, "currency": "EUR"}))
            .await
            .0,
        409
    );
    end(server, &data).await;
}

#[tokio::test]
async fn tokens_misbehave_as_told() {
    let data = folder();
    let server = start(&data).await;
    assert_eq!(call(&server, "/v1/authorizations", "d:1", &asked("d", "tok_decline")).await.1["state"], "declined");
    assert_eq!(call(&server, "/v1/authorizations", "s:1", &asked("s", "tok_soft_decline")).await.1["state"], "soft_declined");
    assert_eq!(call(&server, "/v1/authorizations", "s:2", &asked("s", "tok_soft_decline")).await.1["state"], "authorized");
    assert_eq!(call(&server, "/v1/authorizations", "g:1", &asked("g", "tok_garbage")).await.1, Value::Null);
    assert_eq!(look_up(&server, "g").await.1["state"], "authorized");
    assert_eq!(call(&server, "/v1/authorizations", "e:1", &asked("e", "tok_error_500-1")).await.0, 500);
    assert_eq!(look_up(&server, "e").await.0, 404);
    assert_eq!(call(&server, "/v1/authorizations", "e:1", &asked("e", "tok_error_500-1")).await.0, 200);
    assert_eq!(call(&server, "/v1/authorizations", "v:1", &asked("v", "tok_void_fails-2")).await.0, 200);
    for expected in [503, 503, 200, 200] {
        assert_eq!(call(&server, "/v1/authorizations/v/void", "v:2", &Value::Null).await.0, expected);
    }
    assert_eq!(call(&server, "/v1/authorizations", "w:1", &asked("w", "tok_wrong_amount")).await.1["amountMinor"], 3000);
    assert_eq!(call(&server, "/v1/authorizations/x/void", "x:1", &Value::Null).await.0, 200, "an unknown reference is closed");
    assert_eq!(call(&server, "/v1/authorizations", "x:2", &asked("x", "tok_approve")).await.0, 409);
    end(server, &data).await;
}

/// Starts the program on a free port; on another one when somebody was faster.
async fn program(client: &reqwest::Client, data: &Path) -> (tokio::process::Child, std::net::SocketAddr) {
    loop {
        let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_mercato-provider"))
            .args(["--addr", &address.to_string(), "--data"])
            .arg(data)
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts");
        while program.try_wait().expect("its state").is_none() {
            let answers = client.get(format!("http://{address}/healthz")).send().await.is_ok();
            // and it is ours that answers, not somebody who took the port in the meantime
            if answers && data.join("ledger.jsonl").exists() && program.try_wait().expect("its state").is_none() {
                return (program, address);
            }
            tokio::task::yield_now().await;
        }
    }
}

/// The program itself, killed without warning while it answers.
#[tokio::test]
async fn nothing_answered_is_lost_by_a_kill() {
    let data = folder();
    let client = reqwest::Client::new();
    let (mut program, address) = tokio::time::timeout(LONG, program(&client, &data)).await.expect("it serves");
    let (answered, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let (client, answered) = (client.clone(), answered.clone());
            tokio::spawn(async move {
                for n in 0.. {
                    let reference = format!("k{caller}-{n}");
                    let call =
                        client.post(format!("http://{address}/v1/authorizations")).header("idempotency-key", format!("{reference}:1"));
                    match call.json(&asked(&reference, "tok_approve")).send().await {
                        Ok(answer) if answer.status().is_success() => answered.send(reference).expect("the test listens"),
                        _ => return,
                    }
                }
            })
        })
        .collect();
    drop(answered);
    let mut known = Vec::new();
    while known.len() < 100 {
        known.push(answers.recv().await.expect("callers go on until the kill"));
    }
    program.kill().await.expect("killed");
    for caller in callers {
        caller.await.expect("caller");
    }
    while let Some(reference) = answers.recv().await {
        known.push(reference);
    }

    let server = start(&data).await;
    for reference in &known {
        assert_eq!(look_up(&server, reference).await.1["state"], "authorized", "{reference} was answered and is lost");
    }
    end(server, &data).await;
}
