//! A difference between the ledgers is told until a person has looked into it, and again when it changes.

use crate::world::World;
use mercato_payment::app::{Difference, Side};
use mercato_testkit::Customer;
use serde_json::json;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_settled_difference_is_told_again_only_when_it_changes() {
    let world = World::start().await;
    let order = world.place(&Customer::new(), "tok_approve").await;
    world.until_told(order, &["payment.initiated", "payment.authorized"]).await;
    assert_eq!(world.differences().await, vec![]);

    let (stray, key) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
    let charge = json!({"reference": stray, "amountMinor": 100, "currency": "EUR", "method": "credit_card", "token": "tok_approve"});
    world.ask_provider("/v1/authorizations", &key, &charge).await;
    let told = Difference { key: key.clone(), step: "authorize".into(), side: Side::Theirs, ours: 0, theirs: 100 };
    assert_eq!(world.differences().await, vec![told.clone()]);

    settle(&world, &key, 99).await;
    assert_eq!(world.differences().await, vec![told], "another amount was settled");
    settle(&world, &key, 100).await;
    assert_eq!(world.differences().await, vec![]);

    let later = Uuid::new_v4().to_string();
    world.ask_provider(&format!("/v1/authorizations/{stray}/capture"), &later, &json!({"amountMinor": 100, "currency": "EUR"})).await;
    let told = Difference { key: later, step: "capture".into(), side: Side::Theirs, ours: 0, theirs: 100 };
    assert_eq!(world.differences().await, vec![told]);
    world.stop().await;
}

async fn settle(world: &World, key: &str, theirs: i64) {
    let text = "insert into settled_difference (provider_key, step, ours, theirs, note) values ($1, 'authorize', 0, $2, 'charged by hand, ticket 7')
                on conflict (provider_key, step) do update set theirs = excluded.theirs";
    sqlx::query(text).bind(key).bind(theirs).execute(world.pool().await).await.expect("settled");
}
