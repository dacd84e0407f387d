//! One order at a time: all or nothing, repeats, conflicts, endings.

use crate::world::{HOUR, World, item, reason};
use mercato_inventory::domain::{Command, Status};
use uuid::Uuid;

#[tokio::test]
async fn holds_all_products_or_none() {
    let world = World::new().await;
    let (plenty, scarce) = (world.product(10).await, world.product(1).await);
    let refusal = world.reserve(Uuid::now_v7(), &[item(plenty, 3), item(scarce, 2)]).await.unwrap_err();
    assert_eq!(reason(&refusal), "INSUFFICIENT_STOCK");
    assert_eq!(world.stock(plenty).await, (10, 10));
    let order = Uuid::now_v7();
    world.reserve(order, &[item(plenty, 3), item(scarce, 1)]).await.unwrap();
    assert_eq!((world.stock(plenty).await, world.stock(scarce).await), ((10, 7), (1, 0)));
    world.end().await;
}

#[tokio::test]
async fn a_refusal_names_what_is_short() {
    use mercato_chassis::error::ServiceError as _;
    let world = World::new().await;
    let product = world.product(2).await;
    let refusal = world.reserve(Uuid::now_v7(), &[item(product, 3)]).await.unwrap_err();
    assert_eq!(refusal.http_status(), Some(409));
    let facts = [("product_id", product.to_string()), ("requested", "3".to_owned()), ("available", "2".to_owned())];
    assert_eq!(refusal.metadata(), facts);
    let status = mercato_chassis::status(refusal);
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    world.end().await;
}

#[tokio::test]
async fn a_refusal_is_not_remembered() {
    let world = World::new().await;
    let product = world.product(2).await;
    let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
    world.reserve(first, &[item(product, 2)]).await.unwrap();
    assert_eq!(reason(&world.reserve(second, &[item(product, 1)]).await.unwrap_err()), "INSUFFICIENT_STOCK");
    world.release(first).await.unwrap();
    world.reserve(second, &[item(product, 1)]).await.unwrap();
    world.end().await;
}

#[tokio::test]
async fn repeats_answer_with_the_same_hold() {
    let world = World::new().await;
    let (a, b) = (world.product(5).await, world.product(5).await);
    let order = Uuid::now_v7();
    let first = world.reserve(order, &[item(a, 1), item(b, 2)]).await.unwrap();
    let again = world.reserve(order, &[item(b, 2), item(a, 1)]).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(world.get(order).await.unwrap(), first);
    assert_eq!(reason(&world.reserve(order, &[item(a, 2), item(b, 2)]).await.unwrap_err()), "RESERVATION_CONFLICT");
    let committed = world.commit(order).await.unwrap();
    assert_eq!((committed.status, world.commit(order).await.unwrap()), (Status::Committed, committed.clone()));
    assert_eq!(world.reserve(order, &[item(a, 1), item(b, 2)]).await.unwrap(), committed);
    assert_eq!((world.stock(a).await, world.stock(b).await), ((5, 4), (5, 3)));
    world.end().await;
}

#[tokio::test]
async fn a_release_gives_everything_back_once() {
    let world = World::new().await;
    let product = world.product(5).await;
    for commit_first in [false, true] {
        let order = Uuid::now_v7();
        world.reserve(order, &[item(product, 5)]).await.unwrap();
        if commit_first {
            world.commit(order).await.unwrap();
        }
        let released = world.release(order).await.unwrap();
        assert_eq!((released.status, world.release(order).await.unwrap()), (Status::Released, released.clone()));
        assert_eq!(world.stock(product).await, (5, 5));
        assert_eq!(reason(&world.reserve(order, &[item(product, 5)]).await.unwrap_err()), "RESERVATION_ENDED");
        assert_eq!(reason(&world.commit(order).await.unwrap_err()), "RESERVATION_ENDED");
    }
    world.end().await;
}

#[tokio::test]
async fn a_release_bars_an_order_that_never_reserved() {
    let world = World::new().await;
    let product = world.product(5).await;
    let order = Uuid::now_v7();
    assert_eq!(reason(&world.commit(order).await.unwrap_err()), "RESERVATION_NOT_FOUND");
    assert_eq!(reason(&world.get(order).await.unwrap_err()), "RESERVATION_NOT_FOUND");
    assert_eq!(world.release(order).await.unwrap().status, Status::Released);
    assert_eq!(reason(&world.reserve(order, &[item(product, 1)]).await.unwrap_err()), "RESERVATION_ENDED");
    assert_eq!(world.stock(product).await, (5, 5));
    world.end().await;
}

#[tokio::test]
async fn an_overdue_hold_cannot_be_committed() {
    let world = World::with_ttl(std::time::Duration::ZERO).await;
    let product = world.product(5).await;
    let order = Uuid::now_v7();
    world.reserve(order, &[item(product, 5)]).await.unwrap();
    assert_eq!(reason(&world.commit(order).await.unwrap_err()), "RESERVATION_ENDED");
    assert_eq!((world.get(order).await.unwrap().status, world.stock(product).await), (Status::Expired, (5, 5)));
    assert_eq!(world.release(order).await.unwrap().status, Status::Expired);
    world.end().await;
}

#[tokio::test]
async fn expiry_ends_what_is_overdue_and_nothing_else() {
    let world = World::with_ttl(std::time::Duration::ZERO).await;
    let product = world.product(600).await;
    let orders: Vec<Uuid> = (0..300).map(|_| Uuid::now_v7()).collect();
    world.submit_all(orders.iter().map(|order| Command::Reserve { order: *order, items: vec![item(product, 2)] })).await;
    let patient = world.sharing(HOUR);
    assert_eq!(mercato_inventory::jobs::expire(&patient.reservations).await.unwrap(), 300);
    assert_eq!(world.stock(product).await, (600, 600));
    let order = Uuid::now_v7();
    patient.reserve(order, &[item(product, 1)]).await.unwrap();
    assert_eq!(mercato_inventory::jobs::expire(&patient.reservations).await.unwrap(), 0);
    assert_eq!(world.stock(product).await, (600, 599));
    world.end().await;
}
