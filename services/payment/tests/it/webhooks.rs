//! Webhooks only ever make us look.

use crate::world::{LIMIT, SECRET, World, webhook};
use mercato_chassis::{Refusal, clock};
use mercato_contracts::mercato::payment::v1::payment::Status;
use mercato_provider::sign;
use mercato_testkit::{Customer, eventually};
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
    // A lie in a signed message changes nothing either: the provider is asked, and it holds the amount only.
    let taken: i64 = sqlx::query_scalar("select count(*) from webhook_event where event_id = $1")
        .bind(event.to_string())
        .fetch_one(world.pool().await)
        .await
        .expect("count");
    assert_eq!(taken, 1);
    world.at_rest().await;
    assert_eq!(world.latest(order).expect("payment").status(), Status::Authorized);
    assert_eq!(world.told(order).len(), 2);
    // The provider's own message, sent twice, was taken once.
    let own = || async {
        let count = "select count(*) from webhook_event where reference = $1 and event_id <> $2";
        let count: i64 =
            sqlx::query_scalar(count).bind(order.to_string()).bind(event.to_string()).fetch_one(world.pool().await).await.expect("count");
        (count == 1).then_some(())
    };
    eventually("the provider's webhook", LIMIT, own).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_wakes_the_look_up() {
    // Without it the next look-up would come after a minute at the earliest.
    let world = World::start_with(&[("MERCATO_PAYMENT_LOOKUP_SCALE_PERCENT", "1000"), ("MERCATO_PAYMENT_SETTLE_MS", "3600000")]).await;
    let order = world.place(&Customer::new(), "tok_error_500").await;
    world.until_told(order, &["payment.initiated", "payment.unknown"]).await;
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
