//! A cancelled order gives its stock back, even if nobody asks for it.

use crate::world::{World, item};
use mercato_chassis::{error::Fault, work};
use mercato_inventory::{
    domain::Status,
    workers::{RELEASE, Releases},
};
use mercato_testkit::{LONG, eventually};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn the_durable_step_releases_and_is_done() {
    let world = World::new().await;
    let product = world.product(5).await;
    let (held, unknown) = (Uuid::now_v7(), Uuid::now_v7());
    world.reserve(held, &[item(product, 5)]).await.unwrap();
    world.commit(held).await.unwrap();
    let releases = Releases { db: world.db.clone(), reservations: world.reservations.clone() };
    work::spawn(&world.db, vec![Arc::new(releases)], world.tasks());
    for order in [held, unknown, held] {
        let enqueue = world.db.uow::<_, Fault, _>(move |tx| Box::pin(work::enqueue(tx, RELEASE, order, Duration::ZERO)));
        enqueue.await.unwrap();
    }
    eventually("the steps are done", LONG, || async {
        let open = work::overdue(world.db.read(), &[RELEASE], Duration::ZERO, 10).await.unwrap();
        (open.is_empty() && world.get(unknown).await.is_ok()).then_some(())
    })
    .await;
    for order in [held, unknown] {
        assert_eq!(world.get(order).await.unwrap().status, Status::Released);
    }
    assert_eq!(world.stock(product).await, (5, 5));
    world.check_events().await;
    world.end().await;
}
