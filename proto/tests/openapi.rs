//! The OpenAPI document.

use mercato_contracts::{
    OPENAPI,
    mercato::{
        catalog::v1 as catalog, customer::v1 as customer, inventory::v1 as inventory, ordering::v1 as ordering, payment::v1 as payment,
    },
    methods::{Caller, HttpBinding, Idempotency, METHODS, Method},
    validate::{self, Validate},
};
use prost_reflect::{DynamicMessage, prost::Message};
use serde_json::{Value, json};
use std::{collections::BTreeSet, process::Command};

fn document() -> Value {
    serde_json::from_str(OPENAPI).expect("the document is JSON")
}

/// Every method at every route, with its operation.
fn operations() -> Vec<(&'static Method, &'static HttpBinding, Value)> {
    let document = document();
    let mut found = Vec::new();
    for method in METHODS {
        for binding in method.http {
            let id = format!("{}_{}", method.service.rsplit('.').next().unwrap_or_default(), method.name);
            let operation = document["paths"].as_object().expect("paths").values().find_map(|verbs| {
                let operation = &verbs[binding.verb.to_lowercase()];
                operation["operationId"].as_str().is_some_and(|i| i.starts_with(&id)).then(|| operation.clone())
            });
            found.push((method, binding, operation.unwrap_or_else(|| panic!("no operation {} for {id}", binding.verb))));
        }
    }
    assert!(!found.is_empty());
    found
}

#[test]
fn every_route_is_described_once() {
    let document = document();
    let all: Vec<&Value> =
        document["paths"].as_object().expect("paths").values().flat_map(|v| v.as_object().expect("verbs").values()).collect();
    let ids: BTreeSet<&str> = all.iter().filter_map(|o| o["operationId"].as_str()).collect();
    assert_eq!((all.len(), ids.len()), (operations().len(), operations().len()));
    assert!(all.iter().all(|o| o["summary"].as_str().is_some_and(|s| !s.is_empty())));
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, root: &Value) {
        if let Some(target) = value.get("$ref").and_then(Value::as_str) {
            assert!(root.pointer(target.trim_start_matches('#')).is_some_and(|v| !v.is_null()), "{target}");
        }
        match value {
            Value::Object(fields) => fields.values().for_each(|v| walk(v, root)),
            Value::Array(items) => items.iter().for_each(|v| walk(v, root)),
            _ => {}
        }
    }
    let document = document();
    walk(&document, &document);
}

#[test]
fn the_policy_shows() {
    for (method, _, operation) in operations() {
        let name = method.path;
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let key = parameters.contains(&json!({"$ref": "#/components/parameters/IdempotencyKey"}));
        assert_eq!(key, method.idempotency == Idempotency::Key, "{name}");
        let open = operation["security"] == json!([]);
        assert_eq!(open, method.caller == Caller::Public, "{name}");
        let responses = operation["responses"].as_object().expect("responses");
        assert!(responses.contains_key(&method.http_success.to_string()), "{name}");
        for status in ["400", "401", "429", "500", "503", "504"] {
            assert!(responses.contains_key(status), "{name}: {status}");
        }
        assert_eq!(responses.contains_key("422"), method.idempotency == Idempotency::Key, "{name}");
        let restricted = matches!(method.caller, Caller::Roles(_) | Caller::OwnerField(_));
        assert!(!restricted || responses.contains_key("403"), "{name}");
        if method.server_streaming {
            assert!(responses["200"]["content"]["text/event-stream"].is_object(), "{name}");
        }
    }
}

#[test]
fn the_field_rules_show() {
    let schemas = &document()["components"]["schemas"];
    let order = &schemas["PlaceOrderRequest"];
    assert_eq!(order["required"], json!(["items", "shippingAddress", "paymentMethod"]));
    assert_eq!((&order["properties"]["items"]["minItems"], &order["properties"]["items"]["maxItems"]), (&json!(1), &json!(100)));
    assert!(order["properties"]["userId"]["description"].as_str().expect("a comment").starts_with("Ignored"));
    let item = &schemas["PlaceOrderItem"]["properties"];
    assert_eq!(item["productId"]["format"], "uuid");
    assert_eq!((&item["quantity"]["exclusiveMinimum"], &item["quantity"]["maximum"]), (&json!(0), &json!(999)));
    assert_eq!(schemas["RegisterCustomerRequest"]["properties"]["email"]["format"], "email");
    assert_eq!(schemas["Product"]["properties"]["createdAt"]["readOnly"], true);
    assert!(schemas["TokenResponse"]["properties"]["access_token"].is_object(), "json_name is kept");
}

#[test]
fn a_field_in_the_path_is_not_in_the_body() {
    let document = document();
    assert!(document["components"]["schemas"]["SetStockRequest"]["properties"]["productId"].is_null());
    let put = &document["paths"]["/api/inventory/{productId}"]["put"];
    assert_eq!(
        put["parameters"][0],
        json!({
            "name": "productId", "in": "path", "required": true, "description": "The product's id.",
            "schema": {"type": "string", "format": "uuid"}, "example": "0198f2c4-7a1b-7c3d-8e4f-000000000001",
        })
    );
}

#[test]
fn refusals_name_their_reasons() {
    let document = document();
    let conflict = &document["paths"]["/api/orders"]["post"]["responses"]["409"];
    for reason in ["INSUFFICIENT_STOCK", "PRICE_CHANGED", "REQUEST_IN_PROGRESS"] {
        assert!(conflict["x-reasons"].as_array().expect("reasons").contains(&json!(reason)), "{reason}");
        let example = &conflict["content"]["application/json"]["examples"][reason]["value"];
        assert_eq!(example["details"][0]["reason"], reason);
    }
}

/// The example of a request's body, with the fields of the path, passes the rules of the contract.
fn example<M: Message + Default + Validate>(schema: &str, full_name: &str, in_path: Value) {
    let document = document();
    let mut json = document["components"]["schemas"][schema]["examples"][0].clone();
    let body = json.as_object_mut().unwrap_or_else(|| panic!("{schema} has no example"));
    body.extend(in_path.as_object().cloned().unwrap_or_default());
    let kind = crate::pool().get_message_by_name(full_name).expect(full_name);
    let dynamic = DynamicMessage::deserialize(kind, json).unwrap_or_else(|e| panic!("{full_name}: {e}"));
    let message = M::decode(dynamic.encode_to_vec().as_slice()).expect(full_name);
    if let Err(violations) = validate::check(&message) {
        panic!("{full_name}: {violations}");
    }
}

#[test]
fn examples_of_requests_would_be_accepted() {
    let id = "0198f2c4-7a1b-7c3d-8e4f-000000000001";
    example::<catalog::CreateProductRequest>("CreateProductRequest", "mercato.catalog.v1.CreateProductRequest", json!({}));
    example::<catalog::ProductPatch>("ProductPatch", "mercato.catalog.v1.ProductPatch", json!({}));
    example::<customer::RegisterCustomerRequest>("RegisterCustomerRequest", "mercato.customer.v1.RegisterCustomerRequest", json!({}));
    example::<customer::CustomerPatch>("CustomerPatch", "mercato.customer.v1.CustomerPatch", json!({}));
    example::<customer::SetCustomerRolesRequest>(
        "SetCustomerRolesRequest",
        "mercato.customer.v1.SetCustomerRolesRequest",
        json!({"customerId": id}),
    );
    example::<customer::LoginRequest>("LoginRequest", "mercato.customer.v1.LoginRequest", json!({}));
    example::<customer::RefreshTokenRequest>("RefreshTokenRequest", "mercato.customer.v1.RefreshTokenRequest", json!({}));
    example::<inventory::SetStockRequest>("SetStockRequest", "mercato.inventory.v1.SetStockRequest", json!({"productId": id}));
    example::<ordering::PlaceOrderRequest>("PlaceOrderRequest", "mercato.ordering.v1.PlaceOrderRequest", json!({}));
    example::<ordering::CancelOrderRequest>("CancelOrderRequest", "mercato.ordering.v1.CancelOrderRequest", json!({"orderId": id}));
    example::<payment::RefundPaymentRequest>("RefundPaymentRequest", "mercato.payment.v1.RefundPaymentRequest", json!({"orderId": id}));
}

/// Runs a validator of somebody else: `OPENAPI_VALIDATOR` is a command that takes a file and fails when the document is wrong, such as
/// `openapi-spec-validator` or `python3 -m openapi_spec_validator`.
#[test]
fn a_validator_of_somebody_else_agrees() {
    let command = std::env::var("OPENAPI_VALIDATOR").unwrap_or_default();
    let mut words = command.split_whitespace();
    let Some(program) = words.next() else {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "OPENAPI_VALIDATOR is not set, and in CI it must be");
        eprintln!("NOT RUN: set OPENAPI_VALIDATOR to a command that checks an OpenAPI 3.1 file, such as openapi-spec-validator");
        return;
    };
    let file = std::env::temp_dir().join(format!("mercato-openapi-{}.json", std::process::id()));
    std::fs::write(&file, OPENAPI).expect("a writable temporary folder");
    let output = Command::new(program).args(words).arg(&file).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    std::fs::remove_file(&file).expect("just written");
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&told));
}
