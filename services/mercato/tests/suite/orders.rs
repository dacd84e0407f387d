//! What becomes of an order, from placing it to its settled end.

use super::{
    door::Door,
    shopper::{Shopper, account, number, order, text, with},
    signer::subject,
    until,
};
use serde_json::{Value, json};
use std::sync::Arc;

at_both_doors!(is_paid, is_declined, is_cancelled_while_its_payment_is_slow, takes_the_body_of_a_shop_front, may_follow_a_new_account);

fn kinds(timeline: &Value) -> Vec<String> {
    timeline["entries"].as_array().expect("entries").iter().map(|entry| text(&entry["type"])).collect()
}

/// The last message must be the end, and say why.
fn settled(messages: &[Value]) {
    let (last, before) = messages.split_last().expect("messages");
    assert_eq!(last["end"]["reason"], "SETTLED", "{messages:?}");
    assert!(before.iter().all(|message| message.get("end").is_none_or(Value::is_null)), "{messages:?}");
}

async fn is_paid(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("19.99", 10).await;
    let placed = anna.place_order(order(&[(&product, 2)])).await.expect("an order");
    // the first try may have been too late to be heard
    assert!(placed.asked > 1 || !placed.replayed);
    assert_eq!(placed.body["status"], "PENDING");
    assert_eq!(placed.body["userId"], json!(anna.id));
    assert_eq!(placed.body["totalAmount"], json!({ "currencyCode": "EUR", "amount": "39.98" }));
    let id = text(&placed.body["id"]);

    let messages = anna.watch(&id).await.expect("a stream");
    settled(&messages);
    let versions: Vec<i64> = messages.iter().filter_map(|m| m["order"]["version"].as_str()?.parse().ok()).collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");

    let paid = anna.get_order(&id).await.expect("my order").body;
    assert_eq!((&paid["status"], &paid["paymentStatus"]), (&json!("PAID"), &json!("PAYMENT_PROCESSED")));
    let timeline = anna.timeline(&id).await.expect("its story").body;
    let steps = ["order.created", "order.payment_authorized", "order.confirmed", "order.payment_processed"];
    assert_eq!(kinds(&timeline), steps);
    let entries = timeline["entries"].as_array().expect("entries");
    let numbers: Vec<i64> = entries.iter().map(|entry| number(&entry["version"])).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert!(entries.iter().all(|entry| text(&entry["at"]).ends_with('Z')), "{timeline}");

    let payment = anna.sees_payment(&id, "CAPTURED").await;
    assert_eq!(payment["amount"], json!({ "currencyCode": "EUR", "amount": "39.98" }));
    staff.sees_available(&product, 8).await;
    assert_eq!(anna.orders().await, [id]);
}

async fn is_declined(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("5.00", 3).await;
    let body = with(order(&[(&product, 3)]), json!({ "paymentToken": "tok_decline" }));
    let id = text(&anna.place_order(body).await.expect("an order").body["id"]);
    settled(&anna.watch(&id).await.expect("a stream"));
    let cancelled = anna.sees_status(&id, "CANCELLED").await;
    assert_eq!((&cancelled["paymentStatus"], &cancelled["statusReason"]), (&json!("PAYMENT_FAILED"), &json!("PAYMENT_DECLINED")));
    let payment = anna.sees_payment(&id, "FAILED").await;
    assert_eq!(payment["failureReason"], "PAYMENT_DECLINED");
    staff.sees_available(&product, 3).await;
}

async fn is_cancelled_while_its_payment_is_slow(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    // on a busy machine the provider may have answered by the time of the cancellation
    let (product, id, cancelled) = until("an order that is cancelled in time", async || {
        let product = staff.product("5.00", 4).await;
        let body = with(order(&[(&product, 4)]), json!({ "paymentToken": "tok_slow" }));
        let id = text(&anna.place_order(body).await.expect("an order").body["id"]);
        match anna.cancel(&id).await {
            Err(refused) if refused.reason == "ORDER_NOT_CANCELLABLE" => None,
            cancelled => Some((product, id, cancelled.expect("it is cancelled").body)),
        }
    })
    .await;
    assert_eq!((&cancelled["status"], &cancelled["statusReason"]), (&json!("CANCELLED"), &json!("CANCELLED_BY_CUSTOMER")));
    settled(&anna.watch(&id).await.expect("a stream"));
    anna.sees_payment(&id, "VOIDED").await;
    assert_eq!(anna.get_order(&id).await.expect("my order").body["paymentStatus"], "PAYMENT_VOIDED");
    staff.sees_available(&product, 4).await;
    anna.cancel(&id).await.expect_err("it has ended").is(409, "ORDER_NOT_CANCELLABLE");
}

/// The body as written in the requirements: the owner is the caller whatever `userId` says, and the numbers are checked.
async fn takes_the_body_of_a_shop_front(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("29.99", 5).await;
    let body = json!({
        "userId": subject(),
        "items": [{ "productId": product, "quantity": 2, "price": 29.99 }],
        "totalAmount": 59.98,
        "shippingAddress": { "street": "Hauptstrasse 5", "city": "Koeln", "state": "NW", "zipCode": "50667" },
        "paymentMethod": "credit_card",
    });
    let placed = anna.place_order(body.clone()).await.expect("an order");
    if let Some(status) = placed.http {
        assert_eq!(status, 201);
    }
    let placed = placed.body;
    assert_eq!((&placed["status"], &placed["userId"]), (&json!("PENDING"), &json!(anna.id)));
    for field in ["id", "createdAt", "updatedAt", "paymentMethod"] {
        assert!(!text(&placed[field]).is_empty(), "{field}");
    }
    assert!(!text(&placed["items"][0]["id"]).is_empty());
    assert_eq!(placed["shippingAddress"]["zipCode"], "50667");
    let wrong = with(body, json!({ "totalAmount": 59.99 }));
    anna.place_order(wrong).await.expect_err("another total").is(409, "PRICE_CHANGED");
}

/// From nothing: register as the requirements write it, sign in, buy.
async fn may_follow_a_new_account(door: Arc<dyn Door>) {
    let staff = Shopper::staff(&door).await;
    let product = staff.product("1.00", 1).await;
    let mut berta = Shopper::guest(&door);
    let account = account();
    berta.ask("RegisterCustomer", account.clone()).await.expect("an account");
    let tokens = berta.ask("Login", json!({ "username": account["username"], "password": account["password"] })).await.expect("a login");
    assert_eq!(tokens.body["token_type"], "Bearer");
    berta.token = Some(text(&tokens.body["access_token"]));
    let id = text(&berta.place_order(order(&[(&product, 1)])).await.expect("an order").body["id"]);
    berta.sees_status(&id, "PAID").await;
}
