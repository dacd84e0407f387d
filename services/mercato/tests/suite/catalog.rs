//! Reading and changing what the shop sells.

use super::{
    door::Door,
    fresh,
    shop::SEEDED,
    shopper::{Shopper, text},
    until,
};
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc};

at_both_doors!(has_pages_that_visit_each_product_once, refuses_the_slower_of_two_changes, takes_products_out);

/// The id of every product that nobody changes, page by page, in the order they came: those of the seed. What the scenarios make is in the
/// category `suite`, and one that is renamed or taken out while pages are read may come twice or not at all.
async fn walk(guest: &Shopper, page_size: i32, sort: &str) -> Vec<String> {
    let (mut seen, mut token) = (Vec::new(), json!(""));
    loop {
        let query = json!({ "pageSize": page_size, "sort": sort, "pageToken": token });
        let page = guest.ask("ListProducts", query).await.expect("a page").body;
        let products = page["products"].as_array().expect("a list");
        assert!(products.len() <= usize::try_from(page_size).expect("a small number"));
        seen.extend(products.iter().filter(|product| product["category"] != "suite").map(|product| text(&product["id"])));
        token = page["nextPageToken"].clone();
        if token == "" {
            return seen;
        }
    }
}

/// Others add, change and take out products meanwhile; whatever stays as it is is visited once.
async fn has_pages_that_visit_each_product_once(door: Arc<dyn Door>) {
    let guest = Shopper::guest(&door);
    let before: BTreeSet<String> = walk(&guest, 100, "PRODUCT_SORT_NAME").await.into_iter().collect();
    assert_eq!(before.len(), SEEDED);
    for sort in ["PRODUCT_SORT_UNSPECIFIED", "PRODUCT_SORT_PRICE_ASC", "PRODUCT_SORT_NAME"] {
        let walked = walk(&guest, 7, sort).await;
        let distinct: BTreeSet<String> = walked.iter().cloned().collect();
        assert_eq!(walked.len(), distinct.len(), "{sort}: a product came twice");
        assert_eq!(before, distinct, "{sort}");
    }
    let damaged = guest.ask("ListProducts", json!({ "pageToken": "bm9uc2Vuc2U" })).await.expect_err("damaged");
    damaged.is(400, "PAGE_TOKEN_INVALID");
}

async fn refuses_the_slower_of_two_changes(door: Arc<dyn Door>) {
    let staff = Shopper::staff(&door).await;
    let id = staff.product("4.00", 1).await;
    let etag = staff.ask("GetProduct", json!({ "productId": id })).await.expect("a product").body["etag"].clone();
    let change = |name: &str| staff.ask("UpdateProduct", json!({ "productId": id, "product": { "name": name, "etag": etag } }));
    let results = futures_util::future::join_all([change("Left"), change("Right")]).await;
    let (won, lost): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1));
    let kept = won.into_iter().filter_map(Result::ok).map(|answer| answer.body["name"].clone()).next();
    for refused in lost.into_iter().filter_map(Result::err) {
        refused.is(412, "ETAG_MISMATCH");
        assert!(refused.metadata.contains_key("etag"), "{refused:?}");
    }
    until("the change is seen", async || {
        let seen = staff.ask("GetProduct", json!({ "productId": id })).await.expect("a product").body["name"].clone();
        (Some(seen) == kept).then_some(())
    })
    .await;
}

async fn takes_products_out(door: Arc<dyn Door>) {
    let staff = Shopper::staff(&door).await;
    let id = staff.product("4.00", 1).await;
    let deleted = staff.ask("DeleteProduct", json!({ "productId": id })).await.expect("it is taken out");
    if deleted.http.is_some() {
        assert!(deleted.bytes.is_empty(), "a 204 has no body");
    }
    until("it is gone", async || staff.ask("GetProduct", json!({ "productId": id })).await.err()).await.is(404, "PRODUCT_NOT_FOUND");
    let anna = Shopper::customer(&door).await;
    let product = json!({ "name": fresh("x"), "category": "suite", "price": { "currencyCode": "EUR", "amount": "1.00" } });
    anna.ask("CreateProduct", product).await.expect_err("a customer").is(403, "CALLER_NOT_ALLOWED");
}
