//! The two ways into the shop, with one reading of their answers: done, definitely refused, or unknown.

use crate::history::{Ask, Reply, Seen, Way};
use anyhow::{Context, Result, ensure};
use mercato_contracts::mercato::{
    ordering::v1::{
        CancelOrderRequest, GetOrderRequest, Order, PlaceOrderItem, PlaceOrderRequest, order_service_client::OrderServiceClient,
    },
    r#type::v1::Address,
};
use prost::Message as _;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use uuid::Uuid;

/// How long the making of products and customers may wait for the shop.
const SETUP: Duration = Duration::from_secs(120);
/// A client gives up on one try after this time.
const PATIENCE: Duration = Duration::from_secs(5);
/// Every customer's password begins with it; it is looked for afterwards where it must not be.
pub const PASSWORD_CANARY: &str = "canary-pass-";
/// Reasons that say "not now": the same request with the same key may still be answered otherwise.
const PASSING: &[&str] = &[
    "NEIGHBOUR_UNAVAILABLE",
    "REQUEST_IN_PROGRESS",
    "CONFLICT",
    "OVERLOADED",
    "OUTCOME_UNKNOWN",
    "UNAVAILABLE",
    "RATE_LIMITED",
    "DEADLINE_EXCEEDED",
];

/// One customer's connections and token.
pub struct Customer {
    http: Client,
    grpc: Channel,
    base: String,
    login: (String, String),
    token: Mutex<String>,
    /// The customer's id.
    pub id: Uuid,
}

impl Customer {
    /// Signs in with an account that exists; `id` may be nil for staff.
    ///
    /// # Errors
    /// When the login is refused.
    pub async fn sign_in(base: &str, email: &str, password: &str, id: Uuid) -> Result<Self> {
        let http = Client::builder().timeout(PATIENCE).pool_max_idle_per_host(2).build()?;
        let grpc = Endpoint::from_shared(base.to_owned())?.timeout(PATIENCE).connect_timeout(Duration::from_secs(2)).connect_lazy();
        let login = (email.to_owned(), password.to_owned());
        let customer = Self { http, grpc, base: base.to_owned(), login, token: Mutex::default(), id };
        customer.renew().await?;
        Ok(customer)
    }

    /// Makes an account and signs in.
    ///
    /// # Errors
    /// When either is refused.
    pub async fn register(base: &str, name: &str) -> Result<Self> {
        let (email, password) = (format!("{name}@example.com"), format!("{PASSWORD_CANARY}{name}"));
        let body = json!({ "username": name, "email": email, "password": password });
        let http = Client::builder().timeout(Duration::from_secs(20)).build()?;
        let request = http.post(format!("{base}/api/customers")).header("idempotency-key", format!("register-{name}")).json(&body);
        let (status, body) = patiently(request).await.context("register")?;
        ensure!(status.is_success(), "register: {status} {body}");
        let id = serde_json::from_str::<Value>(&body)?["id"].as_str().unwrap_or_default().parse().context("the new account's id")?;
        Self::sign_in(base, &email, &password, id).await
    }

    /// Fetches a new token.
    ///
    /// # Errors
    /// When the login is refused or not answered.
    pub async fn renew(&self) -> Result<()> {
        let body = json!({ "email": self.login.0, "password": self.login.1 });
        let request = self.http.post(format!("{}/auth/login", self.base)).timeout(Duration::from_secs(20)).json(&body);
        let (status, body) = patiently(request).await.context("sign in")?;
        ensure!(status.is_success(), "sign in: {status} {body}");
        let token = serde_json::from_str::<Value>(&body)?["access_token"].as_str().unwrap_or_default().to_owned();
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
        Ok(())
    }

    fn token(&self) -> String {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks once. A token that ran out is renewed, and the answer is unknown.
    pub async fn ask(&self, way: Way, key: &str, ask: &Ask) -> Reply {
        let reply = match way {
            Way::Rest => self.ask_rest(key, ask).await,
            Way::Grpc => self.ask_grpc(key, ask).await,
        };
        if reply.reason().is_some_and(|reason| reason == "UNAUTHENTICATED") {
            return match self.renew().await {
                Ok(()) => Reply::Unknown("the token had run out".to_owned()),
                Err(error) => Reply::Unknown(format!("{error:#}")),
            };
        }
        reply
    }

    async fn ask_rest(&self, key: &str, ask: &Ask) -> Reply {
        let request = match ask {
            Ask::Place { lines, token } => self.change("/api/orders".to_owned(), key, body(lines, token)),
            Ask::Cancel(id) => self.change(format!("/api/orders/{id}:cancel"), key, json!({})),
            Ask::Read(id) | Ask::Pry(id) => self.http.request(Method::GET, format!("{}/api/orders/{id}", self.base)),
        };
        let answer = match request.bearer_auth(self.token()).send().await {
            Ok(answer) => answer,
            Err(error) => return Reply::Unknown(error.without_url().to_string()),
        };
        let http = answer.status().as_u16();
        let replayed = answer.headers().get("idempotent-replayed").is_some_and(|value| value == "true");
        match answer.bytes().await {
            Ok(bytes) => read_rest(http, &bytes, replayed),
            Err(error) => Reply::Unknown(error.without_url().to_string()),
        }
    }

    /// Reads what there is at a path, once; what was heard instead of 200 else. A token that ran out is renewed.
    pub(crate) async fn look(&self, path: &str) -> Result<(), String> {
        let answer = self.http.get(format!("{}{path}", self.base)).bearer_auth(self.token()).send().await;
        let answer = answer.map_err(|error| error.without_url().to_string())?;
        let status = answer.status();
        let body = answer.text().await.map_err(|error| error.without_url().to_string())?;
        if status == StatusCode::UNAUTHORIZED {
            self.renew().await.map_err(|error| format!("{error:#}"))?;
        }
        if status == StatusCode::OK { Ok(()) } else { Err(format!("{status} {}", body.chars().take(200).collect::<String>())) }
    }

    /// The request for an order over REST.
    pub(crate) fn order_request(&self, key: &str, lines: &[(Uuid, i64)], token: &str) -> RequestBuilder {
        self.change("/api/orders".to_owned(), key, body(lines, token)).bearer_auth(self.token())
    }

    fn change(&self, path: String, key: &str, body: Value) -> RequestBuilder {
        self.http.request(Method::POST, format!("{}{path}", self.base)).header("idempotency-key", key).json(&body)
    }

    async fn ask_grpc(&self, key: &str, ask: &Ask) -> Reply {
        let mut client = OrderServiceClient::new(self.grpc.clone());
        let answer = match ask {
            Ask::Place { lines, token } => client.place_order(self.request(key, message(lines, token))).await,
            Ask::Cancel(id) => {
                let request = CancelOrderRequest { order_id: id.to_string(), ..CancelOrderRequest::default() };
                client.cancel_order(self.request(key, request)).await
            }
            Ask::Read(id) | Ask::Pry(id) => client.get_order(self.request("", GetOrderRequest { order_id: id.to_string() })).await,
        };
        read_grpc(answer)
    }

    fn request<M>(&self, key: &str, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let headers = request.metadata_mut();
        headers.insert("authorization", format!("Bearer {}", self.token()).parse().expect("a token is ascii"));
        if !key.is_empty() {
            headers.insert("idempotency-key", key.parse().expect("our keys are ascii"));
        }
        request
    }

    /// Any change by staff, until it is done.
    ///
    /// # Errors
    /// When it is refused or not answered.
    pub async fn manage(&self, method: Method, path: &str, body: Value) -> Result<Value> {
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(self.token());
        let request = request.header("idempotency-key", Uuid::now_v7().to_string()).timeout(Duration::from_secs(20)).json(&body);
        let (status, text) = patiently(request).await.with_context(|| path.to_owned())?;
        ensure!(status.is_success(), "{path}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Makes a product with a price in minor units and this many units in stock; staff only.
    ///
    /// # Errors
    /// When it is refused or not answered.
    pub async fn product(&self, name: &str, price: i64, stock: i64) -> Result<Uuid> {
        let amount = format!("{}.{:02}", price / 100, price % 100);
        let body = json!({ "name": name, "category": "chaos", "price": { "currencyCode": "EUR", "amount": amount } });
        let made = self.manage(Method::POST, "/api/products", body).await?;
        let id: Uuid = made["id"].as_str().unwrap_or_default().parse().context("the new product's id")?;
        let body = json!({ "stockLevel": stock.to_string(), "warehouseId": "main" });
        self.manage(Method::PUT, &format!("/api/inventory/{id}"), body).await?;
        Ok(id)
    }
}

fn body(lines: &[(Uuid, i64)], token: &str) -> Value {
    let items: Vec<Value> = lines.iter().map(|(product, units)| json!({ "productId": product, "quantity": units })).collect();
    json!({
        "items": items, "paymentMethod": "credit_card", "paymentToken": token,
        "shippingAddress": { "street": "Hauptstrasse 5", "city": "Koeln", "state": "NW", "zipCode": "50667" },
    })
}

fn message(lines: &[(Uuid, i64)], token: &str) -> PlaceOrderRequest {
    let item = |(product, units): &(Uuid, i64)| PlaceOrderItem {
        product_id: product.to_string(),
        quantity: i32::try_from(*units).unwrap_or(i32::MAX),
        price: None,
    };
    PlaceOrderRequest {
        items: lines.iter().map(item).collect(),
        shipping_address: Some(Address {
            street: "Hauptstrasse 5".into(),
            city: "Koeln".into(),
            state: "NW".into(),
            zip_code: "50667".into(),
            ..Address::default()
        }),
        payment_method: "credit_card".into(),
        payment_token: token.to_owned(),
        ..PlaceOrderRequest::default()
    }
}

/// Sends the same request until the answer is not "not now", for a busy or slow machine.
pub(crate) async fn patiently(request: RequestBuilder) -> Result<(StatusCode, String)> {
    let end = Instant::now() + SETUP;
    loop {
        let sent = request.try_clone().context("a request that can be sent again")?.send().await;
        let passing = match sent {
            Ok(answer) => {
                let (status, text) = (answer.status(), answer.text().await);
                match text {
                    Ok(text) if !status.is_server_error() && !matches!(status.as_u16(), 408 | 409 | 429) => return Ok((status, text)),
                    Ok(text) => format!("{status} {text}"),
                    Err(error) => error.without_url().to_string(),
                }
            }
            Err(error) => error.without_url().to_string(),
        };
        ensure!(Instant::now() < end, "not in {SETUP:?}: {passing}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What an answer over REST means.
pub fn read_rest(http: u16, bytes: &[u8], replayed: bool) -> Reply {
    let text = || String::from_utf8_lossy(bytes).chars().take(200).collect::<String>();
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return Reply::Unknown(format!("HTTP {http} without JSON: {}", text())) };
    if (200..300).contains(&http) {
        return match seen(&value) {
            Some(seen) => Reply::Ok { seen, bytes: bytes.to_vec(), replayed },
            None => Reply::Unknown(format!("HTTP {http} without an order: {}", text())),
        };
    }
    let details = value["details"].as_array().into_iter().flatten();
    let info = details.clone().find(|d| d["@type"].as_str().is_some_and(|t| t.ends_with(".ErrorInfo"))).cloned().unwrap_or_default();
    let reason = info["reason"].as_str().unwrap_or_default().to_owned();
    let metadata = match &info["metadata"] {
        Value::Array(pairs) => pairs.iter().map(|pair| (word(&pair["key"]), word(&pair["value"]))).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), word(value))).collect(),
        _ => Default::default(),
    };
    match http {
        401 => Reply::Refused { reason: "UNAUTHENTICATED".into(), http, metadata },
        408 | 429 | 500.. => Reply::Unknown(format!("HTTP {http}: {}", text())),
        _ if reason.is_empty() || PASSING.contains(&reason.as_str()) => Reply::Unknown(format!("HTTP {http}: {}", text())),
        _ => Reply::Refused { reason, http, metadata },
    }
}

fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

fn seen(order: &Value) -> Option<Seen> {
    let lines = order["items"].as_array()?.iter();
    Some(Seen {
        id: order["id"].as_str()?.parse().ok()?,
        customer: order["userId"].as_str()?.parse().ok()?,
        status: order["status"].as_str()?.to_owned(),
        version: number(&order["version"])?,
        lines: lines.map(|line| Some((line["productId"].as_str()?.parse().ok()?, number(&line["quantity"])?))).collect::<Option<_>>()?,
        total: minor(order["totalAmount"]["amount"].as_str()?)?,
    })
}

/// An amount with two decimals in minor units.
pub fn minor(amount: &str) -> Option<i64> {
    let (whole, cents) = amount.split_once('.')?;
    (cents.len() == 2).then_some(())?;
    whole.parse::<i64>().ok()?.checked_mul(100)?.checked_add(cents.parse().ok()?)
}

/// An order of the contract as history keeps it.
pub fn seen_message(order: &Order) -> Option<Seen> {
    let line = |item: &mercato_contracts::mercato::ordering::v1::OrderItem| Some((item.product_id.parse().ok()?, i64::from(item.quantity)));
    Some(Seen {
        id: order.id.parse().ok()?,
        customer: order.user_id.parse().ok()?,
        status: order.status().as_str_name().to_owned(),
        version: i64::from(order.version),
        lines: order.items.iter().map(line).collect::<Option<_>>()?,
        total: minor(&order.total_amount.as_ref()?.amount)?,
    })
}

fn read_grpc(answer: Result<Response<Order>, Status>) -> Reply {
    let status = match answer {
        Ok(response) => {
            let replayed = response.metadata().get("idempotent-replayed").is_some_and(|value| value == "true");
            let order = response.into_inner();
            return match seen_message(&order) {
                Some(seen) => Reply::Ok { seen, bytes: order.encode_to_vec(), replayed },
                None => Reply::Unknown("an answer without an order".to_owned()),
            };
        }
        Err(status) => status,
    };
    use tonic::Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated};
    let info = status.get_error_details().error_info().cloned();
    let reason = info.as_ref().map(|info| info.reason.clone()).unwrap_or_default();
    let metadata = info.map(|info| info.metadata.into_iter().collect()).unwrap_or_default();
    match status.code() {
        Unauthenticated => Reply::Refused { reason: "UNAUTHENTICATED".into(), http: 0, metadata },
        AlreadyExists | FailedPrecondition | InvalidArgument | NotFound | PermissionDenied
            if !reason.is_empty() && !PASSING.contains(&reason.as_str()) =>
        {
            Reply::Refused { reason, http: 0, metadata }
        }
        code => Reply::Unknown(format!("{code:?}: {}", status.message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_do_not_tell_are_unknown() {
        for (http, body) in [(503, r#"{"code":14}"#), (500, "{}"), (429, "{}"), (502, "<html>"), (409, "{}"), (200, "{}")] {
            assert!(!read_rest(http, body.as_bytes(), false).definite(), "{http} {body}");
        }
        let passing = r#"{"code":10,"details":[{"@type":"x/google.rpc.ErrorInfo","reason":"REQUEST_IN_PROGRESS","metadata":[]}]}"#;
        assert!(!read_rest(409, passing.as_bytes(), false).definite());
    }

    #[test]
    fn a_refusal_has_its_reason_and_product() {
        let body =
            r#"{"code":9,"details":[{"@type":"x/google.rpc.ErrorInfo","reason":"INSUFFICIENT_STOCK","metadata":{"product_id":"p"}}]}"#;
        let Reply::Refused { reason, http, metadata } = read_rest(409, body.as_bytes(), false) else { panic!("not refused") };
        assert_eq!((reason.as_str(), http, metadata["product_id"].as_str()), ("INSUFFICIENT_STOCK", 409, "p"));
    }

    #[test]
    fn amounts() {
        assert_eq!((minor("12.34"), minor("12"), minor("1.5")), (Some(1234), None, None));
    }
}
