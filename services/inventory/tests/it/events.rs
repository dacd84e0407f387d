//! Each change is told exactly once, in order.

use crate::world::{World, item};
use mercato_inventory::domain::Command;
use uuid::Uuid;

#[tokio::test]
async fn a_hold_tells_each_of_its_states() {
    let world = World::new().await;
    let product = world.product(5).await;
    let order = Uuid::now_v7();
    world.reserve(order, &[item(product, 2)]).await.unwrap();
    world.reserve(order, &[item(product, 2)]).await.unwrap();
    world.commit(order).await.unwrap();
    world.release(order).await.unwrap();
    world.release(order).await.unwrap();
    let told = world.events_of(order).await;
    assert_eq!(told, ["1 inventory.reserved", "2 inventory.committed", "3 inventory.released"]);
    let told = world.events_of(product).await;
    assert_eq!(told, ["1 inventory.updated", "2 inventory.updated", "3 inventory.updated"]);
    world.end().await;
}

#[tokio::test]
async fn a_batch_tells_of_a_product_once() {
    let world = World::new().await;
    let product = world.product(64).await;
    let commands = (0..64).map(|_| Command::Reserve { order: Uuid::now_v7(), items: vec![item(product, 1)] });
    world.submit_all(commands).await;
    let updates = world.events_of(product).await.len();
    // How many batches there are depends on the machine; one command a batch is none at all.
    assert!((2..=16).contains(&updates), "{updates} events for 64 reservations");
    world.check_events().await;
    world.end().await;
}
