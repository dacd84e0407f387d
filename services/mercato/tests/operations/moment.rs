//! The story of a backup: databases of one moment, the end of the log beside them, and what happened later never happened.

use crate::house::{ALL, House, LONG, Visitor};
use mercato_contracts::mercato::ordering::v1::{Order, order};
use mercato_testkit::eventually;
use std::collections::BTreeSet;

/// Orders, with means of payment that let some of them wait for the provider.
async fn orders(house: &mut House, visitor: &Visitor, product: &str, many: usize) -> Vec<(String, Order)> {
    let mut placed = Vec::new();
    for nth in 0..many {
        let (key, token) = (house.key(), ["tok_approve", "tok_slow"][nth % 2]);
        let order = house.place(visitor, product, &key, token).await;
        placed.push((key, order));
    }
    placed
}

async fn are_paid(house: &House, visitor: &Visitor, orders: &[(String, Order)]) {
    for (_, order) in orders {
        let look = || async { house.order(visitor, &order.id).await.filter(|order| order.status() == order::Status::Paid) };
        eventually(&format!("order {} is paid", order.id), LONG, look).await;
    }
}

#[tokio::test]
async fn a_restore_drops_what_was_said_after_the_backup_and_loses_nothing_before_it() {
    let mut house = House::new().await;
    house.provider().await;
    house.start(ALL).await;
    let visitor = house.sign_in("CUSTOMER").await;
    let product = house.product().await;
    let before = orders(&mut house, &visitor, &product, 8).await;

    // killed with orders under way: the databases are at one moment, the broker at another
    house.succeeds(&["events", "place", "--out", "place.json"]);
    house.kill(ALL);
    house.databases("", "_backup").await;
    house.succeeds(&["events", "save", "--since", "place.json", "--out", "end.jsonl"]);

    house.start(ALL).await;
    let after = orders(&mut house, &visitor, &product, 4).await;
    are_paid(&house, &visitor, &before).await;
    are_paid(&house, &visitor, &after).await;
    house.comes_to_rest().await;
    house.kill(ALL);

    house.databases("_backup", "").await;
    house.succeeds(&["events", "save", "--all", "--out", "all.jsonl"]);
    house.empty().await;
    house.succeeds(&["events", "restore", "--from", "all.jsonl", "--lost", "lost.jsonl"]);
    assert_eq!(created(&house), after.iter().map(|(_, order)| order.id.clone()).collect(), "lost are those placed after the moment");
    house.succeeds(&["events", "check"]);

    house.start(ALL).await;
    for (_, order) in &after {
        assert!(house.order(&visitor, &order.id).await.is_none(), "it was placed after the moment");
    }
    let (key, lost) = &after[0];
    let again = house.place(&visitor, &product, key, "tok_approve").await;
    assert_eq!(again.id, lost.id, "the same key makes the same order");
    are_paid(&house, &visitor, &before).await;
    are_paid(&house, &visitor, &after[..1]).await;
    house.comes_to_rest().await;
    assert_eq!(house.count("payment", "select count(*) from operator_case").await, 0);

    the_end_of_the_log_is_enough(house, &visitor, &before).await;
}

/// Once more to the same moment, with the broker's log lost: what the backup has of it is all that those databases need.
async fn the_end_of_the_log_is_enough(mut house: House, visitor: &Visitor, before: &[(String, Order)]) {
    house.kill(ALL);
    house.databases("_backup", "").await;
    house.empty().await;
    house.succeeds(&["events", "restore", "--from", "end.jsonl", "--lost", "lost.jsonl"]);
    house.succeeds(&["events", "check"]);
    house.start(ALL).await;
    are_paid(&house, visitor, before).await;
    house.comes_to_rest().await;
    differences_are_told(house, &before[0].1.id, &before[1].1.id).await;
}

/// The orders whose first event is in the list of what was lost.
fn created(house: &House) -> BTreeSet<String> {
    let list = std::fs::read_to_string(house.folder.join("lost.jsonl")).expect("a list");
    let lines = list.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let created = lines.filter(|line| line["kind"] == "order.created");
    created.map(|line| line["aggregate"].as_str().expect("text").to_owned()).collect()
}

async fn differences_are_told(mut house: House, one: &str, other: &str) {
    house.kill(ALL);
    let taken = format!("where consumer = 'ordering.payments' and aggregate = '{one}'");
    house.sql("ordering", &format!("update inbox_sequence set last_seq = last_seq + 1 {taken}")).await;
    let told = house.fails(&["events", "check"]);
    assert!(told.contains("taken and never said: 1\n") && told.contains(one), "{told}");
    house.sql("ordering", &format!("update inbox_sequence set last_seq = last_seq - 1 {taken}")).await;
    let stranger = uuid::Uuid::now_v7();
    let never = format!("insert into inbox_sequence values ('payment.orders', 'orders', '{stranger}', 1)");
    house.sql("payment", &never).await;
    let told = house.fails(&["events", "check"]);
    assert!(told.contains("taken and never said: 1\n") && told.contains(&format!("{stranger}: taken 1, said 0")), "{told}");
    house.sql("payment", &format!("delete from inbox_sequence where aggregate = '{stranger}'")).await;

    house.sql("ordering", &format!("update inbox_sequence set last_seq = last_seq - 1 {taken}")).await;
    // one that was never heard of at all is in no row of its hearer
    house.sql("payment", &format!("delete from inbox_sequence where consumer = 'payment.orders' and aggregate = '{other}'")).await;
    let told = house.succeeds(&["events", "check"]);
    assert!(told.contains("taken and never said: 0\n") && told.contains("said and not taken: 2\n"), "{told}");
    assert!(told.contains(one) && told.contains(&format!("{other}: taken 0, said ")), "{told}");
    house.fails(&["events", "check", "--at-rest"]);

    house.succeeds(&["events", "repeat"]);
    house.start(ALL).await;
    house.comes_to_rest().await;
}
