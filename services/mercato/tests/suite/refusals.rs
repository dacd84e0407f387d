//! What the shop says no to, and that nothing is left behind then.

use super::{
    door::Door,
    shopper::{Shopper, order, text, with},
    signer::subject,
};
use serde_json::json;
use std::sync::Arc;

at_both_doors!(of_short_stock_leave_nothing_behind, of_another_price_tell_both, of_malformed_fields_name_them, of_strange_products);

async fn of_short_stock_leave_nothing_behind(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let (plenty, scarce) = (staff.product("2.00", 5).await, staff.product("2.00", 1).await);
    let refused = anna.place_order(order(&[(&plenty, 3), (&scarce, 2)])).await.expect_err("too many");
    refused.is(409, "INSUFFICIENT_STOCK");
    assert_eq!(refused.metadata.get("product_id"), Some(&scarce), "{refused:?}");
    assert_eq!(refused.metadata.get("available").map(String::as_str), Some("1"), "{refused:?}");
    assert!(anna.orders().await.is_empty());
    // nothing of the other product is held either: all of it can still be bought
    anna.place_order(order(&[(&plenty, 5), (&scarce, 1)])).await.expect("all there is");
}

async fn of_another_price_tell_both(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("10.00", 5).await;
    let told = |refused: &super::door::Refused, name: &str| refused.metadata.get(name).cloned().unwrap_or_default();
    for shown in [json!({ "totalAmount": 19.5 }), json!({ "expectedTotal": { "currencyCode": "EUR", "amount": "19.50" } })] {
        let refused = anna.place_order(with(order(&[(&product, 2)]), shown)).await.expect_err("another total");
        refused.is(409, "PRICE_CHANGED");
        assert_eq!((told(&refused, "expected_total"), told(&refused, "actual_total")), ("19.50".into(), "20.00".into()), "{refused:?}");
        assert_eq!(told(&refused, "currency_code"), "EUR");
    }
    let items = json!({ "items": [{ "productId": product, "quantity": 2, "price": 9.99 }] });
    let refused = anna.place_order(with(order(&[]), items)).await.expect_err("another price");
    refused.is(409, "PRICE_CHANGED");
    assert_eq!((told(&refused, "expected_price"), told(&refused, "actual_price")), ("9.99".into(), "10.00".into()), "{refused:?}");
    assert_eq!(told(&refused, "product_id"), product);
    assert!(anna.orders().await.is_empty());
    staff.sees_available(&product, 5).await;
}

async fn of_malformed_fields_name_them(door: Arc<dyn Door>) {
    let anna = Shopper::customer(&door).await;
    let body = json!({
        "items": [{ "productId": "kettle", "quantity": 0 }],
        "shippingAddress": { "street": "", "city": "Koeln", "zipCode": "1" },
        "paymentMethod": "4111 1111 1111 1111",
    });
    let refused = anna.place_order(body).await.expect_err("malformed");
    refused.is(400, "REQUEST_INVALID");
    let expected = ["items[0].productId", "items[0].quantity", "paymentMethod", "shippingAddress.street", "shippingAddress.zipCode"];
    let mut fields = refused.fields.clone();
    fields.sort();
    assert_eq!(fields, expected, "{refused:?}");
    anna.place_order(json!({})).await.expect_err("empty").is(400, "REQUEST_INVALID");
    anna.get_order("not-a-uuid").await.expect_err("no id").is(400, "REQUEST_INVALID");
}

async fn of_strange_products(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let unknown = subject();
    let refused = anna.place_order(order(&[(&unknown, 1)])).await.expect_err("unknown");
    refused.is(404, "PRODUCT_NOT_FOUND");
    assert_eq!(refused.metadata.get("product_id"), Some(&unknown));
    let product = staff.product("10.00", 5).await;
    let refused = anna.place_order(order(&[(&product, 1), (&product, 1)])).await.expect_err("twice");
    refused.is(400, "PRODUCT_REPEATED");
    let missing = subject();
    anna.ask("GetProduct", json!({ "productId": missing })).await.expect_err("unknown").is(404, "PRODUCT_NOT_FOUND");
    assert_eq!(text(&anna.ask("GetProduct", json!({ "productId": product })).await.expect("there").body["id"]), product);
}
