//! Repeating a change: the same key and request answer with the same bytes, and nothing happens twice.

use super::{
    door::Door,
    fresh,
    shopper::{Shopper, account, order, text},
};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc};

at_both_doors!(
    answer_with_the_same_bytes,
    at_the_same_time_place_one_order,
    of_a_refusal_are_refused_the_same,
    with_another_body_are_refused,
    need_a_key,
);

async fn answer_with_the_same_bytes(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("3.00", 9).await;
    let (key, body) = (fresh("again-"), order(&[(&product, 1)]));
    let first = anna.ask_with("PlaceOrder", Some(&key), body.clone()).await.expect("an order");
    anna.sees_status(&text(&first.body["id"]), "PAID").await;
    let again = anna.ask_with("PlaceOrder", Some(&key), body).await.expect("the same order");
    // the first try may have been too late to be heard
    assert!((first.asked > 1 || !first.replayed) && again.replayed);
    assert_eq!(first.bytes, again.bytes);
    assert_eq!(anna.orders().await.len(), 1);
    staff.sees_available(&product, 8).await;
}

async fn at_the_same_time_place_one_order(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("3.00", 9).await;
    let (key, body) = (fresh("twins-"), order(&[(&product, 1)]));
    let twin = || anna.ask_with("PlaceOrder", Some(&key), body.clone());
    let answers = futures_util::future::join_all((0..4).map(|_| twin())).await;
    // whoever was told that it is in progress has asked again
    let ids: BTreeSet<String> = answers.into_iter().map(|answer| text(&answer.expect("an order").body["id"])).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(anna.orders().await.len(), 1);
    staff.sees_available(&product, 8).await;
}

async fn of_a_refusal_are_refused_the_same(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("3.00", 1).await;
    let (key, body) = (fresh("refused-"), order(&[(&product, 2)]));
    let first = anna.ask_with("PlaceOrder", Some(&key), body.clone()).await.expect_err("too many");
    staff.set_stock(&product, 50).await.expect("more stock");
    let again = anna.ask_with("PlaceOrder", Some(&key), body).await.expect_err("decided already");
    first.is(409, "INSUFFICIENT_STOCK");
    again.is(409, "INSUFFICIENT_STOCK");
    assert_eq!(first.metadata, again.metadata);
}

async fn with_another_body_are_refused(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("3.00", 9).await;
    let key = fresh("reused-");
    anna.ask_with("PlaceOrder", Some(&key), order(&[(&product, 1)])).await.expect("an order");
    let refused = anna.ask_with("PlaceOrder", Some(&key), order(&[(&product, 2)])).await.expect_err("another order");
    refused.is(422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(anna.orders().await.len(), 1);
}

async fn need_a_key(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("3.00", 9).await;
    let id = text(&anna.place_order(order(&[(&product, 1)])).await.expect("an order").body["id"]);
    let stock = json!({ "productId": product, "stockLevel": 1, "warehouseId": "main" });
    for (who, method, body) in [
        (&anna, "PlaceOrder", order(&[(&product, 1)])),
        (&anna, "CancelOrder", json!({ "orderId": id })),
        (&anna, "RegisterCustomer", account()),
        (&staff, "SetStock", stock),
    ] {
        let refused = who.ask_with(method, None, body).await.expect_err("no key");
        refused.is(400, "IDEMPOTENCY_KEY_MISSING");
    }
    let long = "k".repeat(65);
    let refused = anna.ask_with("PlaceOrder", Some(&long), order(&[(&product, 1)])).await.expect_err("a long key");
    refused.is(400, "IDEMPOTENCY_KEY_INVALID");
}
