//! Who may call what.

use crate::doors::{ID, get, plain, products, refusal};
use mercato_chassis::Refusal;
use mercato_contracts::mercato::{
    catalog::v1::{BatchGetProductsRequest, CreateProductRequest, product_lookup_service_client::ProductLookupServiceClient},
    customer::v1::{CustomerPatch, GetCustomerRequest, UpdateCustomerRequest, customer_service_client::CustomerServiceClient},
    r#type::v1::Money,
};
use mercato_testkit::{Actor as _, Customer, Guest, Staff, TestKeys};
use tonic::Code;
use uuid::Uuid;

fn create() -> CreateProductRequest {
    CreateProductRequest {
        name: "Lamp".into(),
        price: Some(Money { currency_code: "EUR".into(), amount: "29.99".into() }),
        category: "lamps".into(),
        ..Default::default()
    }
}

fn customer(id: impl ToString) -> GetCustomerRequest {
    GetCustomerRequest { customer_id: id.to_string() }
}

#[tokio::test]
async fn bad_tokens_are_refused_even_where_none_is_needed() {
    let sandbox = plain().await;
    let id = Uuid::now_v7();
    for (what, token) in TestKeys::shared().bad_tokens(id, &["admin"]) {
        let actor = Customer::with_token(id, token);
        let answer = products(&sandbox).get_product(actor.request(get())).await;
        assert_eq!(refusal(answer), (Code::Unauthenticated, "TOKEN_INVALID".into()), "public method: {what}");
        let answer = products(&sandbox).create_product(actor.request(create())).await;
        assert_eq!(refusal(answer), (Code::Unauthenticated, "TOKEN_INVALID".into()), "method for staff: {what}");
    }
    let mut basic = Guest.request(get());
    basic.metadata_mut().insert("authorization", "Basic YTpi".parse().unwrap());
    assert_eq!(refusal(products(&sandbox).get_product(basic).await), (Code::Unauthenticated, "TOKEN_INVALID".into()));
    assert!(products(&sandbox).get_product(Customer::new().request(get())).await.is_ok());
}

#[tokio::test]
async fn roles_decide() {
    let sandbox = plain().await;
    let mut client = products(&sandbox);
    assert_eq!(refusal(client.create_product(Guest.request(create())).await), (Code::Unauthenticated, "TOKEN_MISSING".into()));
    let answer = client.create_product(Customer::new().request(create())).await;
    assert_eq!(refusal(answer), (Code::PermissionDenied, "CALLER_NOT_ALLOWED".into()));
    // A role of ours is not staff.
    let answer = client.create_product(sandbox.peer("ordering").request(create())).await;
    assert_eq!(refusal(answer), (Code::Unauthenticated, "TOKEN_MISSING".into()));
    assert!(client.create_product(Staff::new().request(create())).await.is_ok());
    assert!(client.create_product(Staff::admin().request(create())).await.is_ok());
}

#[tokio::test]
async fn changes_need_a_key_of_visible_ascii() {
    let sandbox = plain().await;
    let (mut client, staff) = (products(&sandbox), Staff::new());
    let answer = client.create_product(staff.request_without_key(create())).await;
    assert_eq!(refusal(answer), (Code::InvalidArgument, "IDEMPOTENCY_KEY_MISSING".into()));
    for key in ["", "with space", &"x".repeat(65)] {
        let answer = client.create_product(staff.request_with_key(create(), key)).await;
        assert_eq!(refusal(answer), (Code::InvalidArgument, "IDEMPOTENCY_KEY_INVALID".into()), "{key:?}");
    }
    let first = client.create_product(staff.request_with_key(create(), "k")).await.unwrap().into_inner();
    let again = client.create_product(staff.request_with_key(create(), "k")).await.unwrap().into_inner();
    let other = client.create_product(Staff::new().request_with_key(create(), "k")).await.unwrap().into_inner();
    assert_eq!(first.id, again.id);
    assert_ne!(first.id, other.id, "keys belong to their subject");
}

#[tokio::test]
async fn owners_see_their_own() {
    let sandbox = plain().await;
    let mut client = CustomerServiceClient::new(sandbox.patient());
    let (me, other) = (Customer::new(), Uuid::now_v7());
    for id in ["me".to_owned(), me.id.to_string()] {
        assert_eq!(client.get_customer(me.request(customer(id))).await.unwrap().into_inner().id, me.id.to_string());
    }
    let answer = client.get_customer(me.request(customer(other))).await;
    assert_eq!(refusal(answer), (Code::PermissionDenied, "CALLER_NOT_ALLOWED".into()));
    let support = Staff::with_roles(&["support"]);
    assert_eq!(client.get_customer(support.request(customer(other))).await.unwrap().into_inner().id, other.to_string());
    // `staff` is none of this method's roles.
    assert!(client.get_customer(Staff::new().request(customer(other))).await.is_err());
    assert_eq!(refusal(client.get_customer(Guest.request(customer("me"))).await), (Code::Unauthenticated, "TOKEN_MISSING".into()));
}

#[tokio::test]
async fn a_handler_that_forgets_the_owner_does_not_answer() {
    let sandbox = plain().await;
    let request = UpdateCustomerRequest {
        customer_id: Uuid::now_v7().to_string(),
        customer: Some(CustomerPatch { phone: "+49 221 1234567".into(), ..Default::default() }),
        update_mask: None,
    };
    let answer = CustomerServiceClient::new(sandbox.patient()).update_customer(Customer::new().request(request)).await;
    assert_eq!(refusal(answer), (Code::Internal, "INTERNAL".into()));
}

#[tokio::test]
async fn only_services_call_the_methods_of_services() {
    let sandbox = plain().await;
    let mut client = ProductLookupServiceClient::new(sandbox.patient());
    let request = || BatchGetProductsRequest { product_ids: vec![ID.into()] };
    for (who, request) in [("guest", Guest.request(request())), ("admin", Staff::admin().request(request()))] {
        assert_eq!(refusal(client.batch_get_products(request).await), (Code::PermissionDenied, "CALLER_NOT_ALLOWED".into()), "{who}");
    }
    let mut forged = Guest.request(request());
    forged.metadata_mut().insert("x-mercato-peer", "ordering.99999999999.AAAA".parse().unwrap());
    assert_eq!(refusal(client.batch_get_products(forged).await), (Code::Unauthenticated, "TOKEN_INVALID".into()));
    let answer = client.batch_get_products(sandbox.peer("ordering").request(request())).await.unwrap();
    assert_eq!(answer.into_inner().missing, ["Peer(\"ordering\")"]);
}

#[tokio::test]
async fn who_calls_is_judged_before_what_is_asked() {
    let sandbox = plain().await;
    let bad = CreateProductRequest::default();
    assert_eq!(refusal(products(&sandbox).create_product(Guest.request(bad.clone())).await).0, Code::Unauthenticated);
    let refused = products(&sandbox).create_product(Staff::new().request(bad)).await.unwrap_err();
    assert_eq!(Refusal::of(&refused).reason, "REQUEST_INVALID");
}

#[tokio::test]
async fn large_requests_are_not_read() {
    let sandbox = plain().await;
    let huge = CreateProductRequest { description: "x".repeat(300 * 1024), ..create() };
    let refused = products(&sandbox).create_product(Staff::new().request(huge)).await.unwrap_err();
    assert_eq!((refused.code(), Refusal::of(&refused).reason.as_str()), (Code::InvalidArgument, "REQUEST_INVALID"));
    assert!(refused.message().contains("larger than"), "{}", refused.message());
}

#[tokio::test]
async fn unknown_methods_do_not_exist() {
    let sandbox = plain().await;
    let mut client = tonic::client::Grpc::new(sandbox.channel());
    client.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/mercato.catalog.v1.ProductService/Destroy");
    let codec = tonic_prost::ProstCodec::<GetCustomerRequest, GetCustomerRequest>::default();
    let answer = client.unary(Guest.request(customer("me")), path, codec).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
}
