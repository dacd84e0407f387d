//! Any sequence of commands keeps the promises of stock.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const TTL: Duration = Duration::minutes(15);

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn shelf(warehouse: &str, available: i64) -> Shelf {
    Shelf { warehouse: warehouse.into(), available }
}

fn book(shelves: &[(u128, &[(&str, i64)])], holds: Vec<Reservation>) -> Book {
    let shelves = shelves.iter().map(|(product, all)| (id(*product), all.iter().map(|(w, units)| shelf(w, *units)).collect())).collect();
    Book::new(NOW, TTL, shelves, holds)
}

fn reserve(order: u128, items: &[(u128, i64)]) -> Command {
    let items = items.iter().map(|(product, quantity)| Item { product: id(*product), quantity: *quantity }).collect();
    Command::Reserve { order: id(order), items }
}

#[test]
fn takes_from_the_fullest_warehouse_first() {
    let mut book = book(&[(1, &[("b", 5), ("a", 5), ("c", 2)])], vec![]);
    let hold = book.apply(&reserve(9, &[(1, 7)])).unwrap();
    let taken: Vec<_> = hold.lines.iter().map(|line| (&*line.warehouse, line.quantity)).collect();
    assert_eq!(taken, [("a", 5), ("b", 2)]);
    assert_eq!(hold.expires_at, NOW + TTL);
    assert_eq!(book.available(id(1)), 5);
}

#[test]
fn holds_all_products_or_none() {
    let mut book = book(&[(1, &[("a", 5)]), (2, &[("a", 1)])], vec![]);
    let refusal = book.apply(&reserve(9, &[(1, 5), (2, 2)])).unwrap_err();
    assert_eq!(refusal, Refusal::Short { product: id(2), requested: 2, available: 1 });
    assert_eq!((book.available(id(1)), book.entries().len(), book.steps().len()), (5, 0, 0));
    assert_eq!(book.apply(&reserve(9, &[(3, 1)])), Err(Refusal::Short { product: id(3), requested: 1, available: 0 }));
}

#[test]
fn repeats_answer_with_the_same_hold() {
    let mut book = book(&[(1, &[("a", 5)]), (2, &[("a", 5)])], vec![]);
    let first = book.apply(&reserve(9, &[(2, 1), (1, 2)])).unwrap();
    assert_eq!(book.apply(&reserve(9, &[(1, 2), (2, 1)])).unwrap(), first);
    assert_eq!(book.apply(&reserve(9, &[(1, 3), (2, 1)])), Err(Refusal::Conflict(id(9))));
    let committed = book.apply(&Command::Commit(id(9))).unwrap();
    assert_eq!((committed.status, committed.version), (Status::Committed, 2));
    assert_eq!(book.apply(&Command::Commit(id(9))).unwrap(), committed);
    let released = book.apply(&Command::Release(id(9))).unwrap();
    assert_eq!(book.apply(&Command::Release(id(9))).unwrap(), released);
    let ended = Err(Refusal::Ended { order: id(9), status: Status::Released });
    assert_eq!(book.apply(&reserve(9, &[(1, 2), (2, 1)])), ended);
    assert_eq!(book.apply(&Command::Commit(id(9))), ended);
    assert!(book.shelf_deltas().is_empty());
}

#[test]
fn a_release_bars_the_order() {
    let mut book = book(&[(1, &[("a", 5)])], vec![]);
    let barred = book.apply(&Command::Release(id(9))).unwrap();
    assert_eq!((barred.status, barred.version, barred.lines.len()), (Status::Released, 1, 0));
    assert!(matches!(book.apply(&reserve(9, &[(1, 1)])), Err(Refusal::Ended { .. })));
    assert_eq!(book.apply(&Command::Commit(id(8))), Err(Refusal::NotFound(id(8))));
}

#[test]
fn an_overdue_hold_expires_whoever_comes_first() {
    let overdue = |order| Reservation {
        order: id(order),
        status: Status::Active,
        lines: vec![Line { product: id(1), warehouse: "a".into(), quantity: 2 }],
        expires_at: NOW,
        version: 1,
    };
    let mut book = book(&[(1, &[("a", 0)])], vec![overdue(7), overdue(8)]);
    assert_eq!(book.apply(&Command::Commit(id(7))), Err(Refusal::Ended { order: id(7), status: Status::Expired }));
    assert_eq!(book.apply(&Command::Expire(id(8))).unwrap().status, Status::Expired);
    assert_eq!(book.apply(&Command::Release(id(8))).unwrap().status, Status::Expired);
    assert_eq!(book.available(id(1)), 4);
    let hold = book.apply(&reserve(9, &[(1, 4)])).unwrap();
    assert_eq!(book.apply(&Command::Expire(id(9))).unwrap(), hold, "not yet due");
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let order = 1..8u128;
    let items = prop::collection::btree_map(1..4u128, 1..6i64, 1..3);
    let command = prop_oneof![
        3 => (order.clone(), items).prop_map(|(order, items)| reserve(order, &items.into_iter().collect::<Vec<_>>())),
        1 => order.clone().prop_map(|order| Command::Commit(id(order))),
        2 => order.clone().prop_map(|order| Command::Release(id(order))),
        1 => order.prop_map(|order| Command::Expire(id(order))),
    ];
    prop::collection::vec(command, 0..60)
}

proptest! {
    #[test]
    fn any_sequence_conserves_stock(commands in commands()) {
        let start: HashMap<Uuid, i64> = [(id(1), 12), (id(2), 5), (id(3), 0)].into();
        let mut book = book(&[(1, &[("a", 5), ("b", 7)]), (2, &[("a", 5)]), (3, &[])], vec![]);
        let mut last: HashMap<Uuid, Reservation> = HashMap::new();
        for command in &commands {
            let before = book.steps().len();
            if let Ok(hold) = book.apply(command) {
                last.insert(hold.order, hold);
            } else {
                prop_assert_eq!(book.steps().len(), before, "a refusal changes nothing");
            }
            for (product, initial) in &start {
                let held: i64 = last.values().filter(|hold| !hold.status.ended()).flat_map(|hold| hold.items())
                    .filter(|item| item.product == *product).map(|item| item.quantity).sum();
                prop_assert!(book.available(*product) >= 0);
                prop_assert_eq!(book.available(*product) + held, *initial);
            }
        }
        for (product, initial) in &start {
            let net: i64 = book.shelf_deltas().iter().filter(|((p, _), _)| p == product).map(|(_, delta)| delta).sum();
            prop_assert_eq!(initial + net, book.available(*product), "the ledger explains the stock");
        }
        for hold in last.values() {
            let states: Vec<_> = book.steps().iter().filter(|step| step.order == hold.order).collect();
            let versions: Vec<i64> = states.iter().map(|step| step.version).collect();
            prop_assert_eq!(versions, (1..=hold.version).collect::<Vec<_>>());
            prop_assert!(states.iter().filter(|step| step.status.ended()).count() <= 1, "one ending");
        }
    }
}
