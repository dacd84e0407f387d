//! The descriptor sets and the method table.

use crate::pool;
use mercato_contracts::{
    ENVOY_DESCRIPTOR_SET,
    mercato::{customer::v1::GetCustomerRequest, ordering::v1::GetOrderRequest},
    methods::{self, Caller, Idempotency, METHODS, Owner},
    validate,
};
use prost_reflect::DescriptorPool;

#[test]
fn envoys_set_has_routes_and_no_map_but_that_of_errors() {
    let pool = DescriptorPool::decode(ENVOY_DESCRIPTOR_SET).expect("a descriptor set");
    assert_eq!(
        pool.all_messages().filter(|m| m.is_map_entry()).map(|m| m.full_name().to_owned()).collect::<Vec<_>>(),
        ["google.rpc.ErrorInfo.MetadataEntry"]
    );
    assert!(pool.files().all(|f| f.file_descriptor_proto().source_code_info.is_none()));
    let http = pool.get_extension_by_name("google.api.http").expect("the extension");
    let routes = pool.services().flat_map(|s| s.methods().collect::<Vec<_>>()).filter(|m| m.options().has_extension(&http)).count();
    assert_eq!(routes, METHODS.iter().filter(|m| !m.http.is_empty()).count());
    // Without it Envoy answers a refusal with an empty body.
    assert!(pool.get_message_by_name("google.rpc.ErrorInfo").is_some());
}

#[test]
fn the_full_set_has_comments() {
    assert!(
        pool().files().filter(|f| f.package_name().starts_with("mercato.")).all(|f| f.file_descriptor_proto().source_code_info.is_some())
    );
}

#[test]
fn every_method_is_found_by_its_path() {
    assert!(METHODS.is_sorted_by(|a, b| a.path < b.path));
    for method in METHODS {
        assert_eq!(methods::find(method.path).map(|m| m.name), Some(method.name));
        assert_eq!(method.path, format!("/{}/{}", method.service, method.name));
    }
    assert!(methods::find("/mercato.ordering.v1.OrderService/Nothing").is_none());
    let place = methods::find("/mercato.ordering.v1.OrderService/PlaceOrder").expect("PlaceOrder");
    assert_eq!((place.caller, place.idempotency, place.http_success), (Caller::User, Idempotency::Key, 201));
    assert_eq!((place.http[0].verb, place.http[0].template, place.http[0].body), ("POST", "/api/orders", "*"));
}

#[test]
fn only_requests_of_owner_methods_have_an_owner() {
    assert_eq!(GetCustomerRequest { customer_id: "me".into() }.owner(), Some("me"));
    assert_eq!(GetOrderRequest { order_id: "7".into() }.owner(), None);
}

#[test]
fn every_pattern_compiles() {
    validate::warm();
}
