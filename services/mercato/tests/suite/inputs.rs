//! Good requests for every public method, and what can be wrong with one field of them.

use super::{
    door::{self, Door},
    fresh,
    shop::shop,
    shopper::{Shopper, account, order, text, with},
};
use mercato_contracts::{
    mercato::{
        catalog::v1 as catalog, customer::v1 as customer, inventory::v1 as inventory, ordering::v1 as ordering, payment::v1 as payment,
    },
    methods::{Caller, Idempotency, METHODS, Method},
    validate::{self, Validate},
};
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value as Proto};
use serde_json::{Value, json};
use std::sync::Arc;

/// What the requests speak about: an order of a customer and its product.
pub struct World {
    pub product: String,
    pub order: String,
    pub owner: Shopper,
}

impl World {
    /// Makes a product, a customer and a paid order.
    pub async fn new(door: &Arc<dyn Door>) -> Self {
        let staff = Shopper::staff(door).await;
        let owner = Shopper::customer(door).await;
        let product = staff.product("12.50", 1000).await;
        let placed = owner.place_order(self::order(&[(&product, 2)])).await.expect("an order");
        let order = text(&placed.body["id"]);
        owner.sees_status(&order, "PAID").await;
        Self { product, order, owner }
    }

    /// A request that keeps every rule.
    pub fn good(&self, method: &str) -> Value {
        let (product, order) = (json!({ "productId": self.product }), json!({ "orderId": self.order }));
        let price = json!({ "currencyCode": "EUR", "amount": "12.50" });
        let attributes = json!([{ "name": "colour", "value": "blue" }]);
        let details = json!({
            "name": fresh("Pot "), "description": "of iron", "price": price, "category": "suite", "tags": ["iron"], "attributes": attributes,
            "images": ["https://images.example.com/pot.jpg"],
        });
        match method {
            "GetProduct" | "GetStock" => product,
            "ListProducts" => {
                json!({ "pageSize": 5, "category": "suite", "priceMin": "1.00", "priceMax": "99.00", "sort": "PRODUCT_SORT_NAME" })
            }
            "CreateProduct" => with(details, json!({ "hidden": false })),
            "UpdateProduct" => with(product, json!({ "product": with(details, json!({ "sellable": true })) })),
            "DeleteProduct" => json!({ "productId": shop().signer.claims(&[])["sub"], "etag": "" }),
            "ListCategories" => json!({}),
            "SetStock" => with(product, json!({ "stockLevel": 1000, "warehouseId": "main" })),
            "ListStockChanges" => with(product, json!({ "pageSize": 5, "pageToken": "" })),
            "RegisterCustomer" => account(),
            "GetCustomer" => json!({ "customerId": self.owner.id }),
            "UpdateCustomer" => {
                let patch = json!({ "username": fresh("u"), "phone": "+49 1", "address": account()["address"], "notificationPreferences": { "email": true } });
                json!({ "customerId": "me", "customer": patch })
            }
            "SetCustomerRoles" => json!({ "customerId": self.owner.id, "roles": [] }),
            "Login" => json!({ "email": "nobody@example.com", "password": "wrong-password" }),
            "RefreshToken" | "Logout" => json!({ "refresh_token": fresh("r") }),
            "PlaceOrder" => with(
                self::order(&[(&self.product, 1)]),
                json!({ "userId": "", "totalAmount": 12.5, "expectedTotal": price, "paymentToken": "tok_ok" }),
            ),
            "ListOrders" => json!({ "pageSize": 5, "pageToken": "", "status": "PAID" }),
            "GetOrder" | "GetOrderTimeline" | "RetryOrder" | "GetPayment" => order,
            "WatchOrder" => with(order, json!({ "afterVersion": 0 })),
            "CancelOrder" => with(order, json!({ "comment": "no longer needed" })),
            "ListStuckOrders" => json!({ "pageSize": 5 }),
            "RefundPayment" => with(order, json!({ "amount": price, "comment": "a scratch" })),
            "ReceiveWebhook" => json!({ "provider": "dev", "payload": { "contentType": "application/json", "data": "e30=" } }),
            other => panic!("no good request for {other}"),
        }
    }
}

/// The methods anybody can reach.
pub fn public() -> impl Iterator<Item = &'static Method> {
    METHODS.iter().filter(|method| method.caller != Caller::Peer)
}

/// A token that may call the method; a subject of its own, so that no limit on one is hit.
pub fn token_for(method: &Method, world: &World) -> Option<String> {
    match (method.caller, method.name) {
        (Caller::Public, _) => None,
        (Caller::Roles(_), _) => Some(shop().signer.good(&["staff", "support", "admin"])),
        (
            _,
            "GetOrder" | "GetOrderTimeline" | "WatchOrder" | "GetPayment" | "CancelOrder" | "UpdateCustomer" | "GetCustomer" | "PlaceOrder",
        ) if method.idempotency == Idempotency::ReadOnly => world.owner.token.clone(),
        _ => Some(shop().signer.good(&[])),
    }
}

/// One field with something wrong: where it is, what it is, and the whole message as it travels.
pub struct Bad {
    pub path: Vec<String>,
    pub what: &'static str,
    pub bytes: Vec<u8>,
}

/// Every field in turn, each with everything that can be wrong with one of its kind.
pub fn bad(method: &Method, good: &Value) -> Vec<Bad> {
    let good = DynamicMessage::deserialize(door::contract(method).input(), good.clone()).expect("a good request");
    let mut found = vec![Bad { path: vec![], what: "nothing at all", bytes: vec![] }];
    found.extend(
        [("noise", &b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..]), ("a length that lies", b"\x0a\x7f"), ("a group", b"\x0b\x0c")]
            .map(|(what, bytes)| Bad { path: vec![], what, bytes: bytes.to_vec() }),
    );
    fields(&good, &mut vec![], &mut |path, what, bytes| found.push(Bad { path: path.to_vec(), what, bytes }));
    found
}

type Tell<'a> = &'a mut dyn FnMut(&[String], &'static str, Vec<u8>);

fn fields(message: &DynamicMessage, path: &mut Vec<String>, tell: Tell<'_>) {
    if path.len() > 4 {
        return;
    }
    for field in message.descriptor().fields() {
        let mut rest = message.clone();
        rest.clear_field(&field);
        let rest = rest.encode_to_vec();
        path.push(field.json_name().to_owned());
        for (what, value) in values(&field, message) {
            tell(path, what, [rest.clone(), value].concat());
        }
        if let Kind::Message(inner) = field.kind() {
            let inner = first(message, &field).unwrap_or_else(|| DynamicMessage::new(inner));
            let (number, rest) = (field.number(), rest.clone());
            fields(&inner, path, &mut |path, what, bytes| tell(path, what, [rest.clone(), bytes_field(number, &bytes)].concat()));
        }
        path.pop();
    }
}

fn first(message: &DynamicMessage, field: &FieldDescriptor) -> Option<DynamicMessage> {
    match message.get_field(field).as_ref() {
        Proto::Message(inner) => Some(inner.clone()),
        Proto::List(items) => items.first()?.as_message().cloned(),
        _ => None,
    }
}

/// A number as protobuf writes it.
pub(super) fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(value, &mut out);
    out
}

fn bytes_field(number: u32, bytes: &[u8]) -> Vec<u8> {
    [varint(u64::from(number) << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn varint_field(number: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(number) << 3), varint(value)].concat()
}

/// What can be wrong with a field, encoded.
fn values(field: &FieldDescriptor, message: &DynamicMessage) -> Vec<(&'static str, Vec<u8>)> {
    let n = field.number();
    let text = |bytes: &[u8]| bytes_field(n, bytes);
    let negative = |value: i64| varint_field(n, value.cast_unsigned());
    let mut found = match field.kind() {
        Kind::String => vec![
            ("empty", text(b"")),
            ("a zero byte", text(b"\0")),
            ("a zero byte inside", text(b"01890000\0-0000")),
            ("bytes that are no UTF-8", text(b"\xff\xfe\xc0\xaf")),
            ("half a surrogate", text(b"\xed\xa0\x80")),
            ("a huge text", text(&vec![b'x'; 120_000])),
            ("control characters", text(b"a\r\nb\x1b[0m")),
            ("direction marks", text("\u{202e}abc\u{feff}".as_bytes())),
            ("SQL", text(b"' or 1=1; drop table orders --")),
            ("a path", text(b"../../../../etc/passwd")),
            ("a number", varint_field(n, 7)),
        ],
        Kind::Int32 | Kind::Int64 => vec![
            ("zero", negative(0)),
            ("less than zero", negative(-1)),
            ("the least", negative(i64::from(i32::MIN))),
            ("the most", negative(i64::from(i32::MAX))),
            ("more than fits", negative(i64::MAX)),
            ("a text", text(b"1")),
        ],
        Kind::Double => [
            ("not a number", f64::NAN),
            ("infinity", f64::INFINITY),
            ("less than zero", -0.01),
            ("very large", 1e300),
            ("very small", 1e-300),
        ]
        .map(|(what, value)| (what, [varint(u64::from(n) << 3 | 1), value.to_le_bytes().to_vec()].concat()))
        .to_vec(),
        Kind::Enum(_) => vec![("an unknown value", negative(999)), ("less than zero", negative(-1)), ("a text", text(b"PAID"))],
        Kind::Message(_) => vec![
            ("nothing", vec![]),
            ("empty", text(b"")),
            ("noise", text(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")),
            ("itself without end", nested(n)),
            ("a number", varint_field(n, 7)),
        ],
        Kind::Bool => vec![("more than one", varint_field(n, 9)), ("a text", text(b"true"))],
        Kind::Bytes => {
            vec![("empty", text(b"")), ("noise", text(b"\xff\0\xfe")), ("huge", text(&vec![0; 120_000])), ("a number", varint_field(n, 7))]
        }
        other => panic!("no bad values for {other:?}"),
    };
    if field.is_list() {
        let one = message_of_first(field, message);
        found.push(("a thousand of them", one.repeat(1000)));
        found.push(("none", vec![]));
    }
    found
}

fn message_of_first(field: &FieldDescriptor, message: &DynamicMessage) -> Vec<u8> {
    match message.get_field(field).as_list().and_then(|items| items.first()) {
        Some(Proto::Message(inner)) => bytes_field(field.number(), &inner.encode_to_vec()),
        Some(Proto::String(text)) => bytes_field(field.number(), text.as_bytes()),
        _ => bytes_field(field.number(), b""),
    }
}

fn nested(number: u32) -> Vec<u8> {
    (0..150).fold(Vec::new(), |inner, _| bytes_field(number, &inner))
}

/// What the contract says to a message: nothing, or the fields that break a rule; none when it is no message at all.
pub fn verdict(request: &MessageDescriptor, bytes: &[u8]) -> Result<(), Vec<String>> {
    fn of<M: Message + Default + Validate>(bytes: &[u8]) -> Result<(), Vec<String>> {
        let message = M::decode(bytes).map_err(|_| vec![])?;
        validate::check(&message).map_err(|broken| broken.list.into_iter().map(|violation| violation.field).collect())
    }
    macro_rules! judge {
        ($($package:ident { $($name:ident),* $(,)? })*) => {
            match request.name() {
                $($(stringify!($name) => of::<$package::$name>(bytes),)*)*
                other => panic!("no judge for {other}"),
            }
        };
    }
    judge!(
        catalog { GetProductRequest, ListProductsRequest, CreateProductRequest, UpdateProductRequest, DeleteProductRequest, ListCategoriesRequest }
        customer { LoginRequest, RefreshTokenRequest, LogoutRequest, RegisterCustomerRequest, GetCustomerRequest, UpdateCustomerRequest, SetCustomerRolesRequest }
        inventory { GetStockRequest, SetStockRequest, ListStockChangesRequest }
        ordering {
            PlaceOrderRequest, GetOrderRequest, ListOrdersRequest, CancelOrderRequest, GetOrderTimelineRequest, WatchOrderRequest,
            ListStuckOrdersRequest, RetryOrderRequest,
        }
        payment { GetPaymentRequest, RefundPaymentRequest, ReceiveWebhookRequest }
    )
}

/// After all that, an honest customer is served as before. A new one: all that may have taken longer than a token lives.
pub async fn still_served(world: &World) {
    let customer = Shopper::customer(&door::rest()).await;
    let placed = customer.place_order(order(&[(&world.product, 1)])).await.expect("an order");
    customer.sees_status(&text(&placed.body["id"]), "PAID").await;
}
