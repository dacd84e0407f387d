//! Webhooks only ever make us look.

use crate::world::{SECRET, World, webhook};
use mercato_chassis::{Refusal, clock};
use mercato_contracts::mercato::payment::v1::payment::Status;
use mercato_provider::sign;
use mercato_testkit::{Customer, LONG, eventually};
use tonic::Code;
use uuid::Uuid;

fn body(event: Uuid, order: Uuid) -> Vec<u8> {
    format!(r#"{{"eventId":"{event}","type":"payment.captured","reference":"{order}"}}"#).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_old_and_repeated_messages_do_nothing() {
    let world = World::start().await;
    let order = world.place(&Customer::new(), "tok_duplicate_webhook").await;
    world.until_told(order, &["payment.initiated", "payment.authorized"]).await;
    let channel = world.sandbox.channel();
    let (event, now) = (Uuid::now_v7(), clock::unix_seconds());
    let message = body(event, order);
    let forged = [
        None,
        Some("t=1,v1=00".to_owned()),
        Some(sign("not-the-secret-of-tests", now, &message)),
        Some(sign(SECRET, now - 400, &message)),
        Some(sign(SECRET, now, &body(Uuid::now_v7(), order))),
    ];
    for signature in forged {
        let status = webhook(channel.clone(), "dev", signature.as_deref(), message.clone()).await.expect_err("refused");
        assert_eq!((status.code(), Refusal::of(&status).reason.as_str()), (Code::Unauthenticated, "WEBHOOK_SIGNATURE_INVALID"));
    }
    let good = sign(SECRET, now, &message);
    let elsewhere = webhook(channel.clone(), "acme", Some(&good), message.clone()).await.expect_err("no such provider");
    assert_eq!((elsewhere.code(), Refusal::of(&elsewhere).reason.as_str()), (Code::NotFound, "PROVIDER_UNKNOWN"));
    for _ in 0..3 {
        webhook(channel.clone(), "dev", Some(&good), message.clone()).await.expect("taken");
    }
    // Neither a lie in a signed message nor what nobody doubts changes or leaves anything; the provider says its own twice.
    eventually("the provider's webhooks", LONG, || async { (world.webhooks() >= 2).then_some(()) }).await;
    let noted: i64 = sqlx::query_scalar("select count(*) from webhook_event").fetch_one(world.pool().await).await.expect("count");
    assert_eq!(noted, 0);
    world.at_rest().await;
    assert_eq!(world.latest(order).expect("payment").status(), Status::Authorized);
    assert_eq!(world.told(order).len(), 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_wakes_the_look_up() {
    let world = World::start_with(&[("MERCATO_PAYMENT_LOOKUP_SCALE_PERCENT", "1000"), ("MERCATO_PAYMENT_SETTLE_MS", "3600000")]).await;
    let order = world.place(&Customer::new(), "tok_error_500").await;
    world.until_told(order, &["payment.initiated", "payment.unknown"]).await;
    // A message about a doubt is noted, once however often it comes.
    let event = Uuid::now_v7();
    let message = body(event, order);
    for _ in 0..3 {
        let signature = sign(SECRET, clock::unix_seconds(), &message);
        webhook(world.sandbox.channel(), "dev", Some(&signature), message.clone()).await.expect("taken");
    }
    let noted = "select count(*) from webhook_event where event_id = $1";
    let noted: i64 = sqlx::query_scalar(noted).bind(event.to_string()).fetch_one(world.pool().await).await.expect("count");
    assert_eq!(noted, 1);
    // Without another one the next look-up would come after an hour.
    let put_off = || async {
        let later = "update work set due_at = clock_timestamp() + interval '1 hour' where kind = 'look_up' and lease_until is null";
        let found = sqlx::query(later).execute(world.pool().await).await.expect("update").rows_affected();
        (found == 1).then_some(())
    };
    eventually("a waiting look-up", LONG, put_off).await;
    // The authorisation arrives at the provider late, by another way.
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/authorizations", world.provider.url()))
        .header("idempotency-key", format!("{order}:authorize:1"))
        .json(&serde_json::json!({"reference": order, "amountMinor": 2999, "currency": "EUR", "method": "credit_card", "token": "tok_approve"}));
    assert!(answer.send().await.expect("answer").status().is_success());
    world.until_told(order, &["payment.initiated", "payment.unknown", "payment.authorized"]).await;
    world.at_rest().await;
    world.stop().await;
}
