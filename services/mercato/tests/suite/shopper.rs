//! Somebody at a door: a guest, a customer, or staff.

use super::{
    door::{Answer, Ask, Door, Refused, method},
    fresh, settled,
    shop::shop,
    until,
};
use mercato_contracts::methods::Idempotency;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// After this time staff sign in again: a token is good for ten minutes, and the longest scenario must not outlive it.
const FRESH: Duration = Duration::from_secs(240);

/// Somebody at a door.
#[derive(Clone)]
pub struct Shopper {
    door: Arc<dyn Door>,
    /// The token shown, if any.
    pub token: Option<String>,
    /// The customer's id; empty for guests and staff.
    pub id: String,
}

/// An answer, or why there is none.
pub type Told = Result<Answer, Refused>;

impl Shopper {
    /// Nobody we know.
    pub fn guest(door: &Arc<dyn Door>) -> Self {
        Self { door: door.clone(), token: None, id: String::new() }
    }

    /// A new customer, signed in.
    pub async fn customer(door: &Arc<dyn Door>) -> Self {
        let mut shopper = Self::guest(door);
        let account = account();
        shopper.id = text(&shopper.ask("RegisterCustomer", account.clone()).await.expect("a new account").body["id"]);
        shopper.token = Some(shopper.login(&account["email"], &account["password"]).await);
        shopper
    }

    /// The login of the seed that holds every role.
    pub async fn staff(door: &Arc<dyn Door>) -> Self {
        static SIGNED_IN: Mutex<Option<(Instant, String)>> = Mutex::const_new(None);
        let mut shopper = Self::guest(door);
        let (email, password) = &shop().staff;
        let mut signed_in = SIGNED_IN.lock().await;
        shopper.token = match &*signed_in {
            Some((since, token)) if since.elapsed() < FRESH => Some(token.clone()),
            _ => {
                let (now, token) = (Instant::now(), shopper.login(&json!(email), &json!(password)).await);
                *signed_in = Some((now, token.clone()));
                Some(token)
            }
        };
        shopper
    }

    async fn login(&self, email: &Value, password: &Value) -> String {
        let answer = self.ask("Login", json!({ "email": email, "password": password })).await.expect("a good login");
        text(&answer.body["access_token"])
    }

    /// Asks; a change gets a fresh idempotency key.
    pub async fn ask(&self, name: &'static str, body: Value) -> Told {
        let key = (method(name).idempotency == Idempotency::Key).then(|| fresh("key-"));
        self.ask_with(name, key.as_deref(), body).await
    }

    /// Asks with this key, or without one; asks again, as every client is told to, when the shop has no time: some neighbours have 300 ms,
    /// which a busy machine exceeds.
    pub async fn ask_with(&self, name: &'static str, key: Option<&str>, body: Value) -> Told {
        let ask = Ask { method: name, body, token: self.token.clone(), key: key.map(str::to_owned) };
        let mut asked = 0;
        let told = settled(async || {
            asked += 1;
            self.door.ask(ask.clone()).await
        });
        match told.await {
            Ok(answer) => Ok(Answer { asked, ..answer }),
            Err(refused) => Err(Refused { asked, ..refused }),
        }
    }

    /// Places an order.
    pub async fn place_order(&self, order: Value) -> Told {
        self.ask("PlaceOrder", order).await
    }

    /// Reads an order.
    pub async fn get_order(&self, id: &str) -> Told {
        self.ask("GetOrder", json!({ "orderId": id })).await
    }

    /// Cancels an order.
    pub async fn cancel(&self, id: &str) -> Told {
        self.ask("CancelOrder", json!({ "orderId": id })).await
    }

    /// What happened to an order.
    pub async fn timeline(&self, id: &str) -> Told {
        self.ask("GetOrderTimeline", json!({ "orderId": id })).await
    }

    /// Watches an order to the end of the stream.
    pub async fn watch(&self, id: &str) -> Result<Vec<Value>, Refused> {
        let ask = Ask { method: "WatchOrder", body: json!({ "orderId": id }), token: self.token.clone(), key: None };
        settled(async || self.door.listen(ask.clone()).await).await
    }

    /// Reads the payment of an order.
    pub async fn get_payment(&self, id: &str) -> Told {
        self.ask("GetPayment", json!({ "orderId": id })).await
    }

    /// The ids of the caller's orders.
    pub async fn orders(&self) -> Vec<String> {
        let page = self.ask("ListOrders", json!({ "pageSize": 100 })).await.expect("a page of orders").body;
        page["orders"].as_array().expect("a list").iter().map(|order| text(&order["id"])).collect()
    }

    /// Sets a product's stock.
    pub async fn set_stock(&self, product: &str, level: i64) -> Told {
        self.ask("SetStock", json!({ "productId": product, "stockLevel": level, "warehouseId": "main" })).await
    }

    /// Makes a product with stock; staff only.
    pub async fn product(&self, price: &str, stock: i64) -> String {
        let product = json!({
            "name": fresh("Kettle "), "category": "suite", "price": { "currencyCode": "EUR", "amount": price },
            "attributes": [{ "name": "colour", "value": "blue" }],
        });
        let id = text(&self.ask("CreateProduct", product).await.expect("a new product").body["id"]);
        self.set_stock(&id, stock).await.expect("stock for a new product");
        id
    }

    /// Units that can be ordered.
    pub async fn available(&self, product: &str) -> i64 {
        let stock = self.ask("GetStock", json!({ "productId": product })).await.expect("the stock").body;
        number(&stock["available"])
    }

    /// Waits until this many units can be ordered.
    pub async fn sees_available(&self, product: &str, units: i64) {
        until(&format!("{units} units of {product}"), async || (self.available(product).await == units).then_some(())).await;
    }

    /// Waits until an order is in this status, and answers with it.
    pub async fn sees_status(&self, id: &str, status: &str) -> Value {
        until(&format!("order {id} is {status}"), async || {
            Some(self.get_order(id).await.expect("an order of mine").body).filter(|order| order["status"] == status)
        })
        .await
    }

    /// Waits until the payment of an order is in this status, and answers with it.
    pub async fn sees_payment(&self, id: &str, status: &str) -> Value {
        until(&format!("the payment of {id} is {status}"), async || {
            self.get_payment(id).await.ok().map(|answer| answer.body).filter(|payment| payment["status"] == status)
        })
        .await
    }
}

/// A new account, with all a customer may tell.
pub fn account() -> Value {
    let name = fresh("u");
    json!({
        "username": name, "email": format!("{name}@example.com"), "password": fresh("secret-"), "phone": "+49 221 123456",
        "address": { "street": "Hauptstrasse 5", "city": "Koeln", "state": "NW", "zipCode": "50667" },
    })
}

/// An order for these products.
pub fn order(lines: &[(&str, i32)]) -> Value {
    let items: Vec<Value> = lines.iter().map(|(product, quantity)| json!({ "productId": product, "quantity": quantity })).collect();
    json!({
        "items": items, "paymentMethod": "credit_card",
        "shippingAddress": { "street": "Hauptstrasse 5", "city": "Koeln", "state": "NW", "zipCode": "50667" },
    })
}

/// The same with more fields, or other values.
pub fn with(mut body: Value, more: Value) -> Value {
    let fields = body.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    body
}

/// A field that is text.
#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// A field that is a whole number; JSON callers get one of 64 bits as text.
#[track_caller]
pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| text(value).parse().expect("a number"))
}
