//! What belongs to one customer is not there for another, and what is for staff is refused to customers.

use super::{
    door::Door,
    shopper::{Shopper, number, order, text, with},
    signer::subject,
};
use serde_json::json;
use std::sync::Arc;

at_both_doors!(alone_see_their_orders, see_what_support_sees, have_roles_to_change_stock);

async fn alone_see_their_orders(door: Arc<dyn Door>) {
    let staff = Shopper::staff(&door).await;
    let (anna, berta) = (Shopper::customer(&door).await, Shopper::customer(&door).await);
    let product = staff.product("3.00", 9).await;
    let slow = with(order(&[(&product, 1)]), json!({ "paymentToken": "tok_slow" }));
    let id = text(&anna.place_order(slow).await.expect("an order").body["id"]);
    berta.get_order(&id).await.expect_err("hers").is(404, "ORDER_NOT_FOUND");
    berta.timeline(&id).await.expect_err("hers").is(404, "ORDER_NOT_FOUND");
    berta.watch(&id).await.expect_err("hers").is(404, "ORDER_NOT_FOUND");
    berta.cancel(&id).await.expect_err("hers").is(404, "ORDER_NOT_FOUND");
    anna.sees_payment(&id, "CAPTURED").await;
    let hers = berta.get_payment(&id).await.expect_err("hers");
    hers.is(404, "PAYMENT_NOT_FOUND");
    let nobodys = berta.get_payment(&subject()).await.expect_err("nobody's");
    assert_eq!((hers.code, hers.reason), (nobodys.code, nobodys.reason), "another's order looks like none");
    assert!(berta.orders().await.is_empty());
    let listed = berta.ask("ListOrders", json!({ "userId": anna.id })).await.expect_err("hers");
    listed.is(403, "NOT_YOUR_ORDERS");
    berta.ask("GetCustomer", json!({ "customerId": anna.id })).await.expect_err("hers").is(404, "CUSTOMER_NOT_FOUND");
}

async fn see_what_support_sees(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("3.00", 9).await;
    let id = text(&anna.place_order(order(&[(&product, 1)])).await.expect("an order").body["id"]);
    assert_eq!(text(&staff.get_order(&id).await.expect("support may look").body["userId"]), anna.id);
    let listed = staff.ask("ListOrders", json!({ "userId": anna.id })).await.expect("support may look").body;
    assert_eq!(listed["orders"][0]["id"], json!(id));
}

async fn have_roles_to_change_stock(door: Arc<dyn Door>) {
    let (staff, anna) = (Shopper::staff(&door).await, Shopper::customer(&door).await);
    let product = staff.product("3.00", 9).await;
    // the body as written in the requirements
    let set = staff.set_stock(&product, 12).await.expect("staff may").body;
    assert_eq!((text(&set["productId"]), &set["warehouseId"]), (product.clone(), &json!("main")));
    assert_eq!(number(&set["stockLevel"]), 12);
    assert!(!text(&set["updatedAt"]).is_empty());
    staff.sees_available(&product, 12).await;
    anna.set_stock(&product, 1000).await.expect_err("a customer").is(403, "CALLER_NOT_ALLOWED");
    Shopper::guest(&door).set_stock(&product, 1000).await.expect_err("a guest");
    staff.set_stock(&subject(), 1).await.expect_err("unknown").is(404, "PRODUCT_UNKNOWN");
    let negative = json!({ "productId": product, "stockLevel": -1, "warehouseId": "main" });
    let refused = staff.ask("SetStock", negative).await.expect_err("below zero");
    refused.is(400, "REQUEST_INVALID");
    assert_eq!(refused.fields, ["stockLevel"]);
    staff.sees_available(&product, 12).await;
}
