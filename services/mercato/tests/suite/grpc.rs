//! gRPC as another Rust program speaks it: the generated clients, with the error details unpacked.

use super::door::{Answer, Ask, Door, Refused, contract, method};
use async_trait::async_trait;
use mercato_contracts::mercato::{
    catalog::v1::{self as catalog, product_service_client::ProductServiceClient},
    customer::v1::{self as customer, auth_service_client::AuthServiceClient, customer_service_client::CustomerServiceClient},
    inventory::v1::{self as inventory, stock_service_client::StockServiceClient},
    ordering::v1::{self as ordering, order_operator_service_client::OrderOperatorServiceClient, order_service_client::OrderServiceClient},
    payment::v1::{self as payment, payment_service_client::PaymentServiceClient},
};
use prost::Message;
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::Value;
use std::time::Duration;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

/// The door.
pub struct Grpc {
    channel: Channel,
}

impl Grpc {
    /// A client of this shop.
    pub fn new(base: &str) -> Self {
        Self { channel: channel(base) }
    }
}

/// A connection to a gRPC server, made when first used.
pub fn channel(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).expect("a url").timeout(Duration::from_secs(45)).connect_lazy()
}

/// Asks with the generated client of the method that is named.
macro_rules! generated {
    ($ask:expr, $channel:expr, $($name:literal => $client:ident.$call:ident($request:ty)),* $(,)?) => {
        match $ask.method {
            $($name => {
                let request = with_headers(Request::new(message::<$request>(&$ask)), &$ask);
                answer(&$ask, $client::new($channel.clone()).$call(request).await)
            })*
            other => panic!("the suite has no gRPC client for {other}"),
        }
    };
}

#[async_trait]
impl Door for Grpc {
    async fn ask(&self, ask: Ask) -> Result<Answer, Refused> {
        generated!(ask, self.channel,
            "RegisterCustomer" => CustomerServiceClient.register_customer(customer::RegisterCustomerRequest),
            "GetCustomer" => CustomerServiceClient.get_customer(customer::GetCustomerRequest),
            "UpdateCustomer" => CustomerServiceClient.update_customer(customer::UpdateCustomerRequest),
            "Login" => AuthServiceClient.login(customer::LoginRequest),
            "RefreshToken" => AuthServiceClient.refresh_token(customer::RefreshTokenRequest),
            "Logout" => AuthServiceClient.logout(customer::LogoutRequest),
            "PlaceOrder" => OrderServiceClient.place_order(ordering::PlaceOrderRequest),
            "GetOrder" => OrderServiceClient.get_order(ordering::GetOrderRequest),
            "ListOrders" => OrderServiceClient.list_orders(ordering::ListOrdersRequest),
            "CancelOrder" => OrderServiceClient.cancel_order(ordering::CancelOrderRequest),
            "GetOrderTimeline" => OrderServiceClient.get_order_timeline(ordering::GetOrderTimelineRequest),
            "GetPayment" => PaymentServiceClient.get_payment(payment::GetPaymentRequest),
            "RefundPayment" => PaymentServiceClient.refund_payment(payment::RefundPaymentRequest),
            "GetProduct" => ProductServiceClient.get_product(catalog::GetProductRequest),
            "ListProducts" => ProductServiceClient.list_products(catalog::ListProductsRequest),
            "CreateProduct" => ProductServiceClient.create_product(catalog::CreateProductRequest),
            "UpdateProduct" => ProductServiceClient.update_product(catalog::UpdateProductRequest),
            "DeleteProduct" => ProductServiceClient.delete_product(catalog::DeleteProductRequest),
            "GetStock" => StockServiceClient.get_stock(inventory::GetStockRequest),
            "SetStock" => StockServiceClient.set_stock(inventory::SetStockRequest),
            "ListStockChanges" => StockServiceClient.list_stock_changes(inventory::ListStockChangesRequest),
            "ListCategories" => ProductServiceClient.list_categories(catalog::ListCategoriesRequest),
            "SetCustomerRoles" => CustomerServiceClient.set_customer_roles(customer::SetCustomerRolesRequest),
            "ListStuckOrders" => OrderOperatorServiceClient.list_stuck_orders(ordering::ListStuckOrdersRequest),
            "RetryOrder" => OrderOperatorServiceClient.retry_order(ordering::RetryOrderRequest),
            "ReceiveWebhook" => PaymentServiceClient.receive_webhook(payment::ReceiveWebhookRequest),
        )
    }

    async fn listen(&self, ask: Ask) -> Result<Vec<Value>, Refused> {
        assert_eq!(ask.method, "WatchOrder", "the only stream");
        let request = with_headers(Request::new(message::<ordering::WatchOrderRequest>(&ask)), &ask);
        let mut stream = OrderServiceClient::new(self.channel.clone()).watch_order(request).await.map_err(|s| refused(&s))?.into_inner();
        let mut messages = Vec::new();
        while let Some(message) = stream.message().await.map_err(|s| refused(&s))? {
            messages.push(json(&ask, &message.encode_to_vec()));
        }
        Ok(messages)
    }
}

/// The request's message, made from JSON by the contract.
fn message<M: Message + Default>(ask: &Ask) -> M {
    let input = contract(method(ask.method)).input();
    let dynamic = DynamicMessage::deserialize(input, ask.body.clone()).unwrap_or_else(|error| panic!("{}: {error}", ask.body));
    M::decode(dynamic.encode_to_vec().as_slice()).expect("the same contract on both sides")
}

/// An answer's message as JSON by the contract, with the fields that have their default.
fn json(ask: &Ask, bytes: &[u8]) -> Value {
    let dynamic = DynamicMessage::decode(contract(method(ask.method)).output(), bytes).expect("the same contract on both sides");
    let options = SerializeOptions::new().skip_default_fields(false);
    dynamic.serialize_with_options(serde_json::value::Serializer, &options).expect("every message has a JSON form")
}

/// Adds token and key.
pub fn with_headers<M>(mut request: Request<M>, ask: &Ask) -> Request<M> {
    let headers = request.metadata_mut();
    if let Some(token) = &ask.token {
        headers.insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
    }
    if let Some(key) = &ask.key {
        headers.insert("idempotency-key", key.parse().expect("ascii"));
    }
    request
}

fn answer<M: Message>(ask: &Ask, result: Result<Response<M>, Status>) -> Result<Answer, Refused> {
    let response = result.map_err(|status| refused(&status))?;
    let replayed = response.metadata().get("idempotent-replayed").is_some_and(|value| value == "true");
    let bytes = response.into_inner().encode_to_vec();
    Ok(Answer { body: json(ask, &bytes), bytes, replayed, http: None, asked: 1 })
}

/// Unpacks a status.
pub fn refused(status: &Status) -> Refused {
    let details = status.get_error_details();
    let info = details.error_info().cloned();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    Refused {
        code: status.code(),
        reason: info.as_ref().map(|i| i.reason.clone()).unwrap_or_default(),
        metadata: info.map(|i| i.metadata.into_iter().collect()).unwrap_or_default(),
        fields: violations.into_iter().map(|v| v.field).collect(),
        message: status.message().to_owned(),
        http: None,
        asked: 1,
    }
}
