//! Counting stock.

use crate::world::{World, item, reason};
use mercato_chassis::{
    Fault,
    cache::Cache,
    config::Env,
    grpc::client::Peers,
    idempotency::{Answer, Key},
    token::PeerCredentials,
};
use mercato_contracts::mercato::catalog::v1::{
    BatchGetProductsRequest, BatchGetProductsResponse, Product,
    product_lookup_service_server::{ProductLookupService, ProductLookupServiceServer},
};
use mercato_contracts::mercato::inventory::v1::Stock;
use mercato_inventory::{app::StockKeeper, error::Error, reconcile};
use mercato_testkit::{LONG, eventually};
use std::{collections::BTreeSet, time::Duration};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};
use uuid::Uuid;

/// A catalog that knows some products.
struct Catalog(BTreeSet<String>);

#[tonic::async_trait]
impl ProductLookupService for Catalog {
    async fn batch_get_products(&self, request: Request<BatchGetProductsRequest>) -> Result<Response<BatchGetProductsResponse>, Status> {
        let (known, missing): (Vec<_>, Vec<_>) = request.into_inner().product_ids.into_iter().partition(|id| self.0.contains(id));
        let products = known.into_iter().map(|id| Product { id, ..Product::default() }).collect();
        Ok(Response::new(BatchGetProductsResponse { products, missing }))
    }
}

/// A keeper whose catalog, over a real connection, knows these products.
pub async fn keeper(world: &World, known: &[Uuid]) -> StockKeeper {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let catalog = ProductLookupServiceServer::new(Catalog(known.iter().map(Uuid::to_string).collect()));
    let server = tonic::transport::Server::builder().add_service(catalog).serve_with_incoming(incoming);
    tokio::spawn(async move { server.await.unwrap() });
    let env: Env = [("MERCATO_PEER_CATALOG".to_owned(), format!("http://{address}"))].into();
    let (inside, _) = tokio::sync::mpsc::channel(1);
    let peers = Peers::new(inside, BTreeSet::new(), &env, PeerCredentials::new("for tests".into()));
    let cache = Cache::messages("inventory", 100, Duration::from_secs(60), None, Duration::from_secs(60));
    StockKeeper { db: world.db.clone(), catalog: peers.seen_from("inventory").get("catalog"), cache }
}

/// Counts; again while the catalog does not answer: it has 300 ms, which a busy machine exceeds.
async fn set(keeper: &StockKeeper, key: Key, product: Uuid, warehouse: &str, level: i64) -> Result<Answer<Stock>, Error> {
    let answered = || async {
        match keeper.set(&key, product, warehouse, level).await {
            Err(Error::Fault(Fault::Unavailable { .. })) => None,
            answer => Some(answer),
        }
    };
    eventually("the catalog answers", LONG, answered).await
}

fn key(text: &str, level: u8) -> Key {
    Key::new("/mercato.inventory.v1.StockService/SetStock", "somebody", text, [level; 32])
}

#[tokio::test]
async fn a_count_is_made_once_for_each_key() {
    let world = World::new().await;
    let product = Uuid::now_v7();
    let keeper = keeper(&world, &[product]).await;
    assert_eq!(keeper.get(product).await.unwrap().available, 0);
    let first = set(&keeper, key("a", 1), product, "main", 10).await.unwrap();
    assert_eq!((first.replayed, first.message.stock_level, first.message.available), (false, 10, 10));
    assert_eq!(keeper.get(product).await.unwrap().available, 10);
    world.reserve(Uuid::now_v7(), &[item(product, 4)]).await.unwrap();
    let again = set(&keeper, key("a", 1), product, "main", 10).await.unwrap();
    assert_eq!((again.replayed, again.message), (true, first.message));
    assert_eq!(reason(&set(&keeper, key("a", 2), product, "main", 11).await.unwrap_err()), "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(world.stock(product).await, (10, 6));
    world.check_events().await;
    world.end().await;
}

#[tokio::test]
async fn a_count_below_what_is_promised_is_refused() {
    let world = World::new().await;
    let product = Uuid::now_v7();
    let keeper = keeper(&world, &[product]).await;
    set(&keeper, key("a", 1), product, "main", 10).await.unwrap();
    world.reserve(Uuid::now_v7(), &[item(product, 4)]).await.unwrap();
    let refusal = set(&keeper, key("b", 1), product, "main", 3).await.unwrap_err();
    assert_eq!(reason(&refusal), "LEVEL_BELOW_RESERVED");
    set(&keeper, key("c", 1), product, "main", 4).await.unwrap();
    assert_eq!(world.stock(product).await, (4, 0));
    world.check_events().await;
    world.end().await;
}

#[tokio::test]
async fn an_unknown_product_is_refused() {
    let world = World::new().await;
    let keeper = keeper(&world, &[]).await;
    let refusal = set(&keeper, key("a", 1), Uuid::now_v7(), "main", 10).await.unwrap_err();
    assert_eq!(reason(&refusal), "PRODUCT_UNKNOWN");
    world.end().await;
}

/// Ten warehouses count the same product at the same moment, while orders reserve it.
#[tokio::test(flavor = "multi_thread")]
async fn warehouses_count_at_once() {
    let world = World::new().await;
    let product = world.product(50).await;
    let keeper = keeper(&world, &[product]).await;
    let counts = (0..10u8).map(|place| {
        let keeper = keeper.clone();
        async move { set(&keeper, key(&format!("w{place}"), place), product, &format!("w{place}"), 5).await.unwrap() }
    });
    let orders = (0..20).map(|_| async { world.reserve(Uuid::now_v7(), &[item(product, 3)]).await.is_ok() });
    let (_, held) = tokio::join!(futures_util::future::join_all(counts), futures_util::future::join_all(orders));
    let held = held.into_iter().filter(|ok| *ok).count() as i64;
    assert!(held >= 16, "50 units were there from the start");
    assert_eq!(world.stock(product).await, (100, 100 - 3 * held));
    world.check_events().await;
    world.end().await;
}

#[tokio::test]
async fn an_order_takes_from_several_warehouses() {
    let world = World::new().await;
    let product = Uuid::now_v7();
    let keeper = keeper(&world, &[product]).await;
    set(&keeper, key("a", 1), product, "north", 3).await.unwrap();
    set(&keeper, key("b", 1), product, "south", 5).await.unwrap();
    let order = Uuid::now_v7();
    let hold = world.reserve(order, &[item(product, 7)]).await.unwrap();
    let lines: Vec<_> = hold.lines.iter().map(|line| (&*line.warehouse, line.quantity)).collect();
    assert_eq!(lines, [("south", 5), ("north", 2)]);
    world.release(order).await.unwrap();
    keeper.forget(&[product]);
    let stock = keeper.get(product).await.unwrap();
    assert_eq!((stock.available, stock.stock_level, stock.in_stock, stock.warehouses.len()), (8, 8, true, 2));
    assert_eq!(reconcile(&world.db).await.unwrap(), []);
    world.end().await;
}

#[tokio::test]
async fn the_ledger_is_read_in_pages() {
    let world = World::new().await;
    let product = world.product(100).await;
    let keeper = keeper(&world, &[product]).await;
    for _ in 0..6 {
        world.reserve(Uuid::now_v7(), &[item(product, 1)]).await.unwrap();
    }
    let (mut causes, mut before) = (Vec::new(), None);
    loop {
        let page = keeper.changes(product, before, 3).await.unwrap();
        causes.extend(page.changes.iter().map(|change| change.cause.clone()));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(causes, ["reserve", "reserve", "reserve", "reserve", "reserve", "reserve", "set"]);
    world.end().await;
}
