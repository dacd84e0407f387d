//! The ledger explains the stock, after anything.

use crate::world::{World, item};
use mercato_inventory::{domain::Command, jobs, reconcile, seed};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use std::time::Duration;
use uuid::Uuid;

#[derive(Debug, Clone)]
enum Action {
    Reserve(usize, Vec<(usize, i64)>),
    Commit(usize),
    Release(usize),
    Expire,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let items = prop::collection::btree_map(0..3usize, 1..6i64, 1..3);
    let action = prop_oneof![
        4 => (0..12usize, items).prop_map(|(order, items)| Action::Reserve(order, items.into_iter().collect())),
        2 => (0..12usize).prop_map(Action::Commit),
        2 => (0..12usize).prop_map(Action::Release),
        1 => Just(Action::Expire),
    ];
    prop::collection::vec(action, 1..40)
}

/// Random commands through two processes, one whose holds are overdue at once.
#[test]
fn random_commands_leave_nothing_unexplained() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::new());
    let hasty = runtime.block_on(async { world.sharing(Duration::ZERO) });
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&actions(), |actions| {
        runtime.block_on(run(&world, &hasty, &actions));
        Ok(())
    });
    runtime.block_on(world.end());
    outcome.unwrap();
}

async fn run(world: &World, hasty: &World, actions: &[Action]) {
    let products = [world.product(20).await, world.product(7).await, world.product(0).await];
    let orders: Vec<Uuid> = (0..12).map(|_| Uuid::now_v7()).collect();
    let mut waiting = Vec::new();
    for (place, action) in actions.iter().enumerate() {
        let process = if place % 3 == 0 { hasty } else { world };
        let command = match action {
            Action::Reserve(order, items) => {
                let items = items.iter().map(|(product, quantity)| item(products[*product], *quantity)).collect();
                Command::Reserve { order: orders[*order], items }
            }
            Action::Commit(order) => Command::Commit(orders[*order]),
            Action::Release(order) => Command::Release(orders[*order]),
            Action::Expire => {
                jobs::expire(&world.reservations).await.unwrap();
                continue;
            }
        };
        let reservations = process.reservations.clone();
        waiting.push(tokio::spawn(async move { reservations.submit(command).await }));
    }
    for answer in waiting {
        if let Err(error) = answer.await.unwrap() {
            assert!(!matches!(error, mercato_inventory::error::Error::Fault(_)), "{error:?}");
        }
    }
    assert_eq!(reconcile(&world.db).await.unwrap(), []);
    world.check_events().await;
}

#[tokio::test]
async fn a_unit_that_vanished_is_found() {
    let world = World::new().await;
    let product = world.product(10).await;
    assert_eq!(reconcile(&world.db).await.unwrap(), []);
    world.tamper("UPDATE stock SET available = available - 1").await.unwrap();
    let found = reconcile(&world.db).await.unwrap();
    assert_eq!((found.len(), found[0].product, found[0].available, found[0].ledger_available), (1, product, Some(9), 10));
    world.tamper("UPDATE stock SET available = available + 1").await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn the_database_refuses_to_rewrite_history() {
    let world = World::new().await;
    let product = world.product(10).await;
    let order = Uuid::now_v7();
    world.reserve(order, &[item(product, 1)]).await.unwrap();
    world.release(order).await.unwrap();
    for (statement, constraint) in [
        ("UPDATE stock_ledger SET available_delta = 0", "stock_ledger_append_only"),
        ("DELETE FROM stock_ledger", "stock_ledger_append_only"),
        ("TRUNCATE stock_ledger", "stock_ledger_append_only"),
        ("UPDATE reservation SET status = 'ACTIVE', version = version + 1", "reservation_one_ending"),
        ("UPDATE stock SET available = -1", "stock_available_not_negative"),
        ("UPDATE stock SET available = on_hand + 1", "stock_available_within_on_hand"),
    ] {
        let error = world.tamper(statement).await.unwrap_err();
        assert_eq!(mercato_chassis::error::constraint(&error), Some(constraint), "{statement}");
    }
    world.end().await;
}

#[tokio::test]
async fn seeding_is_explained_and_harmless_to_repeat() {
    let world = World::new().await;
    let products: Vec<Uuid> = (0..10_000).map(|_| Uuid::now_v7()).collect();
    seed(&world.db, &products, |place| place as i64 % 50, "main").await.unwrap();
    let transactions = "SELECT count(DISTINCT xmin::text) FROM stock WHERE product_id = ANY($1)";
    let transactions: i64 = sqlx::query_scalar(transactions).bind(&products).fetch_one(world.db.read()).await.unwrap();
    assert_eq!(transactions, 5, "one for each 2000 products");
    seed(&world.db, &products, |_| 999, "main").await.unwrap();
    assert_eq!((world.stock(products[7]).await, world.stock(products[9_999]).await), ((7, 7), (49, 49)));
    world.check_events().await;
    world.end().await;
}
