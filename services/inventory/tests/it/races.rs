//! Many at once, through one process and through two.

use crate::world::{HOUR, World, item, reason};
use mercato_inventory::{
    domain::{Command, Status},
    jobs,
};
use std::time::Duration;
use uuid::Uuid;

fn orders(count: usize) -> Vec<Uuid> {
    (0..count).map(|_| Uuid::now_v7()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_buyers_share_ten_units() {
    let world = World::new().await;
    let product = world.product(10).await;
    let buyers = orders(64);
    let answers = world.submit_all(buyers.iter().map(|order| Command::Reserve { order: *order, items: vec![item(product, 1)] })).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 10);
    assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(|error| reason(error) == "INSUFFICIENT_STOCK"));
    assert_eq!(world.stock(product).await, (10, 0));
    world.end().await;
}

/// Two batchers stand for two processes: they share nothing but the database.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_sell_exactly_the_stock() {
    let world = World::new().await;
    let other = world.sharing(HOUR);
    let products = [world.product(100).await, world.product(100).await, world.product(100).await];
    let command = |place: usize, order: &Uuid| {
        // Each process names the products in another order.
        let (a, b) = if place.is_multiple_of(2) { (0, 1) } else { (1, 0) };
        Command::Reserve { order: *order, items: vec![item(products[a], 1), item(products[b], 1), item(products[2], 1)] }
    };
    let (here, there) = (orders(150), orders(150));
    let (a, b) = tokio::join!(
        world.submit_all(here.iter().enumerate().map(|(place, order)| command(place, order))),
        other.submit_all(there.iter().enumerate().map(|(place, order)| command(place + 1, order))),
    );
    let sold = a.iter().chain(&b).filter(|answer| answer.is_ok()).count();
    assert_eq!(sold, 100);
    for product in products {
        assert_eq!(world.stock(product).await, (100, 0));
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_order_through_two_processes_holds_once() {
    let world = World::new().await;
    let other = world.sharing(HOUR);
    let product = world.product(1_000).await;
    let orders = orders(100);
    let commands = || orders.iter().map(|order| Command::Reserve { order: *order, items: vec![item(product, 2)] });
    let (a, b) = tokio::join!(world.submit_all(commands()), other.submit_all(commands()));
    for (one, two) in a.into_iter().zip(b) {
        assert_eq!(one.unwrap(), two.unwrap());
    }
    assert_eq!(world.stock(product).await, (1_000, 800));
    world.end().await;
}

/// Commit and expiry race for holds of which some are over, some end while the race runs, and some go on; each has one ending, and both
/// sides agree on it.
#[tokio::test(flavor = "multi_thread")]
async fn commit_and_expiry_never_both_win() {
    const HOLDS: usize = 510;
    let world = World::new().await;
    let other = world.sharing(HOUR);
    let product = world.product(HOLDS as i64).await;
    let orders = orders(HOLDS);
    for (third, ttl) in orders.chunks(HOLDS / 3).zip([Duration::ZERO, HOUR, Duration::from_millis(250)]) {
        let reserve = third.iter().map(|order| Command::Reserve { order: *order, items: vec![item(product, 1)] });
        assert!(world.sharing(ttl).submit_all(reserve).await.iter().all(Result::is_ok));
    }

    let commits = async {
        let mut answers = Vec::new();
        for chunk in orders.chunks(25) {
            answers.extend(world.submit_all(chunk.iter().map(|order| Command::Commit(*order))).await);
        }
        answers
    };
    let expiry = async {
        while world.active().await > 0 {
            jobs::expire(&other.reservations).await.unwrap();
        }
    };
    let (answers, ()) = tokio::join!(commits, expiry);

    let mut committed = 0;
    for (order, answer) in orders.iter().zip(answers) {
        let status = world.get(*order).await.unwrap().status;
        match answer {
            Ok(hold) => assert_eq!((hold.status, status), (Status::Committed, Status::Committed)),
            Err(error) => assert_eq!((reason(&error).as_str(), status), ("RESERVATION_ENDED", Status::Expired)),
        }
        committed += i64::from(status == Status::Committed);
    }
    let holds = HOLDS as i64;
    assert!((holds / 3..=holds / 3 * 2).contains(&committed), "{committed} of {holds} were committed");
    assert_eq!(world.stock(product).await, (holds, holds - committed));
    world.end().await;
}

/// On one thread, so that nothing is done about the command before its caller goes.
#[tokio::test]
async fn a_caller_that_goes_away_changes_nothing() {
    let world = World::new().await;
    let product = world.product(10).await;
    let order = Uuid::now_v7();
    let command = Command::Reserve { order, items: vec![item(product, 1)] };
    // Polled once, so the command is in the queue; then its caller is gone.
    let mut waiting = Box::pin(world.reservations.submit(command.clone()));
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    drop(waiting);
    let hold = world.reservations.submit(command).await.unwrap();
    assert_eq!((hold.version, world.stock(product).await), (1, (10, 9)));
    world.end().await;
}

/// A hold that cannot be given back fails alone, not with all that wait in the same batch.
#[tokio::test(flavor = "multi_thread")]
async fn one_bad_hold_does_not_spoil_the_batch() {
    let world = World::new().await;
    let product = world.product(100).await;
    let orders = orders(50);
    world.submit_all(orders.iter().map(|order| Command::Reserve { order: *order, items: vec![item(product, 2)] })).await;
    let bad = "UPDATE reservation_line SET warehouse_id = 'gone' WHERE order_id = (SELECT order_id FROM reservation ORDER BY order_id DESC LIMIT 1)";
    world.tamper(bad).await.unwrap();
    let answers = world.submit_all(orders.iter().map(|order| Command::Release(*order))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 49);
    assert_eq!(reason(answers[49].as_ref().unwrap_err()), "INTERNAL");
    assert_eq!(world.stock(product).await, (100, 98));
    world.tamper("UPDATE reservation_line SET warehouse_id = 'main'").await.unwrap();
    world.release(orders[49]).await.unwrap();
    assert_eq!(world.stock(product).await, (100, 100));
    world.check_events().await;
    world.end().await;
}
