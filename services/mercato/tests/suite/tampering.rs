//! Fields a client has no say in, and ids that cannot be counted.

use super::{
    door::{self, Door},
    garbage::call_for,
    grpc::channel,
    inputs::World,
    shop::shop,
    shopper::{Shopper, account, order, text, with},
    signer::subject,
};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

one_at_a_time!(with_json_changes_nothing, with_unknown_fields_changes_nothing, with_prices_is_noticed, with_ids_by_counting_finds_nothing);

/// What somebody would like to say about an order or an account.
fn wishes() -> Value {
    json!({
        "id": subject(), "status": "PAID", "paymentStatus": "PAYMENT_PROCESSED", "version": 9, "discount": "100", "total": 0, "price": 0,
        "role": "admin", "roles": ["admin"], "customerId": subject(), "createdAt": "2001-01-01T00:00:00Z", "sellable": false, "stock": 1,
    })
}

/// What is stored of an order is ours.
fn our_order(order: &Value, owner: &str) {
    assert_eq!((&order["userId"], &order["totalAmount"]["amount"]), (&json!(owner), &json!("12.50")), "{order}");
    assert_eq!((&order["items"][0]["price"]["amount"], &order["items"][0]["quantity"]), (&json!("12.50"), &json!(1)), "{order}");
    assert!(!order["createdAt"].as_str().expect("a time").starts_with("2001"), "{order}");
}

async fn with_json_changes_nothing() {
    let world = World::new(&door::rest()).await;
    let wish = wishes();
    let placed = with(order(&[(&world.product, 1)]), with(wish.clone(), json!({ "userId": subject() })));
    let placed = world.owner.place_order(placed).await.expect("unknown fields are not read").body;
    assert_eq!((&placed["status"], &placed["version"]), (&json!("PENDING"), &json!(1)));
    assert_ne!(placed["id"], wish["id"]);
    our_order(&placed, &world.owner.id);
    let guest = Shopper::guest(&door::rest());
    let made = guest.ask("RegisterCustomer", with(account(), wish.clone())).await.expect("an account").body;
    assert_eq!(made["roles"], json!([]));
    assert_ne!(made["id"], wish["id"]);
    let patch = json!({ "customerId": "me", "customer": with(json!({ "phone": "+49 2" }), json!({ "roles": ["admin"], "email": "other@example.com" })) });
    let changed = world.owner.ask("UpdateCustomer", patch).await.expect("unknown fields are not read").body;
    assert_eq!((&changed["roles"], &changed["phone"]), (&json!([]), &json!("+49 2")));
    assert_ne!(changed["email"], "other@example.com");
}

/// The same over gRPC: fields of numbers nobody has, and those that answers have.
async fn with_unknown_fields_changes_nothing() {
    let world = World::new(&door::grpc()).await;
    let channel = channel(&shop().edge);
    let encode = |name: &'static str, body: Value| {
        let input = door::contract(door::method(name)).input();
        let known: BTreeSet<u32> = input.fields().map(|field| field.number()).collect();
        let mut bytes = DynamicMessage::deserialize(input, body).expect("a good request").encode_to_vec();
        for number in (1..16_u8).filter(|number| !known.contains(&u32::from(*number))) {
            bytes.extend_from_slice(&[number << 3 | 2, 5]);
            bytes.extend_from_slice(b"admin");
            bytes.extend_from_slice(&[number << 3, 3]);
        }
        bytes
    };
    let answer = async |name: &'static str, body: Value, token: Option<String>| {
        let method = door::method(name);
        let bytes = call_for(&channel, method, token, encode(name, body)).await.expect("an answer");
        let message = DynamicMessage::decode(door::contract(method).output(), bytes.as_slice()).expect("an answer of ours");
        serde_json::to_value(message).expect("JSON")
    };
    let wanted = with(order(&[(&world.product, 1)]), json!({ "userId": subject() }));
    let placed = answer("PlaceOrder", wanted, world.owner.token.clone()).await;
    assert_eq!((&placed["status"], &placed["version"]), (&json!("PENDING"), &json!(1)));
    our_order(&placed, &world.owner.id);
    let made = answer("RegisterCustomer", account(), None).await;
    assert!(made.get("roles").is_none_or(|roles| *roles == json!([])), "{made}");
    let patch = json!({ "customerId": "me", "customer": { "phone": "+49 3" } });
    let changed = answer("UpdateCustomer", patch, world.owner.token.clone()).await;
    assert!(changed.get("roles").is_none_or(|roles| *roles == json!([])), "{changed}");
}

/// A price, a total or a currency of one's own is compared with ours and refused.
async fn with_prices_is_noticed() {
    for door in [door::rest(), door::grpc()] {
        let world = World::new(&door).await;
        let money = |code: &str, amount: &str| json!({ "expectedTotal": { "currencyCode": code, "amount": amount } });
        for wish in [
            json!({ "totalAmount": 0.01 }),
            json!({ "totalAmount": 12.49 }),
            money("EUR", "0.00"),
            money("EUR", "-12.50"),
            money("USD", "12.50"),
        ] {
            let refused = world.owner.place_order(with(order(&[(&world.product, 1)]), wish.clone())).await.expect_err("another price");
            assert!(["PRICE_CHANGED", "REQUEST_INVALID"].contains(&refused.reason.as_str()), "{wish}: {refused:?}");
        }
        let cheap = json!({ "items": [{ "productId": world.product, "quantity": 1, "price": 0.01 }] });
        world.owner.place_order(with(order(&[]), cheap)).await.expect_err("another price").is(409, "PRICE_CHANGED");
    }
}

fn uuid(text: &str) -> uuid::Uuid {
    uuid::Uuid::parse_str(text).expect("a UUID")
}

/// Ids follow from time and chance, or from a hash: knowing some says nothing about the next.
async fn with_ids_by_counting_finds_nothing() {
    let door: Arc<dyn Door> = door::rest();
    let world = World::new(&door).await;
    let staff = Shopper::staff(&door).await;
    let mut chance = BTreeSet::new();
    for _ in 0..20 {
        let id = uuid(&staff.product("1.00", 1).await);
        assert_eq!(id.get_version_num(), 7, "{id}");
        chance.insert(id.as_u128() & ((1 << 62) - 1));
    }
    assert_eq!(chance.len(), 20, "the random parts differ");
    let mut orders = Vec::new();
    for _ in 0..5 {
        let placed = world.owner.place_order(order(&[(&world.product, 1)])).await.expect("an order");
        orders.push(uuid(&text(&placed.body["id"])));
    }
    assert!(orders.iter().all(|id| id.get_version_num() == 8), "{orders:?}");
    for id in orders {
        let next = uuid::Uuid::from_u128(id.as_u128() + 1).to_string();
        world.owner.get_order(&next).await.expect_err("no such order").is(404, "ORDER_NOT_FOUND");
    }
}
