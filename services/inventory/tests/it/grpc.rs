//! Messages in, messages out.

use crate::{
    stock::keeper,
    world::{World, item},
};
use mercato_chassis::{error::Refusal, page_token::PageTokens};
use mercato_contracts::mercato::inventory::v1::{
    CommitReservationRequest, CommitReservationsRequest, GetReservationRequest, GetStockRequest, ListStockChangesRequest,
    ReleaseReservationRequest, ReservationItem, ReservationStatus, ReserveRequest, reservation_service_server::ReservationService as _,
    stock_service_server::StockService as _,
};
use mercato_inventory::grpc::{ReservationApi, StockApi};
use tonic::{Code, Request};
use uuid::Uuid;

fn request(order: Uuid, items: &[(Uuid, i32)]) -> Request<ReserveRequest> {
    let items = items.iter().map(|(product, quantity)| ReservationItem { product_id: product.to_string(), quantity: *quantity }).collect();
    Request::new(ReserveRequest { order_id: order.to_string(), items })
}

#[tokio::test]
async fn a_hold_lives_and_ends() {
    let world = World::new().await;
    let product = world.product(5).await;
    let api = ReservationApi { reservations: world.reservations.clone() };
    let order = Uuid::now_v7();
    let id = order.to_string();
    let held = api.reserve(request(order, &[(product, 2)])).await.unwrap().into_inner();
    assert_eq!((held.status(), held.items.len(), held.items[0].quantity), (ReservationStatus::Active, 1, 2));
    let known = api.get_reservation(Request::new(GetReservationRequest { order_id: id.clone() })).await.unwrap().into_inner();
    assert_eq!(known, held);
    let committed = api.commit_reservation(Request::new(CommitReservationRequest { order_id: id.clone() })).await.unwrap();
    assert_eq!(committed.get_ref().status(), ReservationStatus::Committed);
    let released = api.release_reservation(Request::new(ReleaseReservationRequest { order_id: id.clone() })).await.unwrap();
    assert_eq!((released.get_ref().status(), &released.get_ref().items), (ReservationStatus::Released, &held.items));
    let refusal = Refusal::of(&api.commit_reservation(Request::new(CommitReservationRequest { order_id: id })).await.unwrap_err());
    assert_eq!(
        (refusal.code, refusal.reason.as_str(), refusal.metadata["status"].as_str()),
        (Code::FailedPrecondition, "RESERVATION_ENDED", "RELEASED")
    );
    assert_eq!(refusal.domain, "inventory.mercato");
    world.end().await;
}

#[tokio::test]
async fn many_holds_become_permanent_each_for_itself() {
    let world = World::new().await;
    let product = world.product(5).await;
    let api = ReservationApi { reservations: world.reservations.clone() };
    let (held, given_back, unknown) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    for order in [held, given_back] {
        api.reserve(request(order, &[(product, 1)])).await.unwrap();
    }
    api.release_reservation(Request::new(ReleaseReservationRequest { order_id: given_back.to_string() })).await.unwrap();
    let order_ids = [held, given_back, unknown, held].map(|order| order.to_string()).to_vec();
    for _ in 0..2 {
        let asked = CommitReservationsRequest { order_ids: order_ids.clone() };
        let answer = api.commit_reservations(Request::new(asked)).await.unwrap().into_inner();
        assert_eq!(answer.outcomes.iter().map(|outcome| outcome.order_id.clone()).collect::<Vec<_>>(), order_ids);
        assert_eq!(
            answer.outcomes.iter().map(|outcome| outcome.status()).collect::<Vec<_>>(),
            [ReservationStatus::Committed, ReservationStatus::Released, ReservationStatus::Unspecified, ReservationStatus::Committed]
        );
    }
    world.end().await;
}

#[tokio::test]
async fn a_product_named_twice_is_refused() {
    let world = World::new().await;
    let product = world.product(5).await;
    let api = ReservationApi { reservations: world.reservations.clone() };
    let refusal = Refusal::of(&api.reserve(request(Uuid::now_v7(), &[(product, 1), (product, 1)])).await.unwrap_err());
    assert_eq!((refusal.code, refusal.reason.as_str(), refusal.domain.as_str()), (Code::InvalidArgument, "REQUEST_INVALID", "mercato"));
    world.end().await;
}

#[tokio::test]
async fn pages_belong_to_their_product() {
    let world = World::new().await;
    let (product, other) = (world.product(5).await, world.product(5).await);
    let order = Uuid::now_v7();
    world.reserve(order, &[item(product, 2)]).await.unwrap();
    let api = StockApi { keeper: keeper(&world, &[]).await, page_tokens: PageTokens::new(b"secret") };
    let list = |product: Uuid, page_token: String| {
        api.list_stock_changes(Request::new(ListStockChangesRequest { product_id: product.to_string(), page_size: 1, page_token }))
    };
    let first = list(product, String::new()).await.unwrap().into_inner();
    assert_eq!(
        (first.changes.len(), first.changes[0].cause.as_str(), first.changes[0].order_id.clone()),
        (1, "reserve", order.to_string())
    );
    let second = list(product, first.next_page_token.clone()).await.unwrap().into_inner();
    assert_eq!((second.changes[0].cause.as_str(), second.changes[0].order_id.as_str(), second.next_page_token.as_str()), ("set", "", ""));
    let refusal = Refusal::of(&list(other, first.next_page_token).await.unwrap_err());
    assert_eq!((refusal.code, refusal.reason.as_str()), (Code::InvalidArgument, "PAGE_TOKEN_INVALID"));
    let stock = api.get_stock(Request::new(GetStockRequest { product_id: product.to_string() })).await.unwrap().into_inner();
    assert_eq!((stock.available, stock.stock_level, stock.in_stock), (3, 5, true));
    world.end().await;
}
