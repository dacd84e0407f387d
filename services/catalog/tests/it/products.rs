//! Create, get, update, delete: happy, invalid, not found, forbidden, repeated, raced.

use crate::support::{Shop, eur, kettle, key, mask, patch, reason};
use mercato_contracts::mercato::catalog::v1 as proto;
use mercato_testkit::busy;
use tonic::Code;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_product_is_created_read_changed_and_deleted() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let mut products = shop.products();
    let created = products.create_product(shop.staff(kettle(), key())).await?.into_inner();
    assert_eq!(Uuid::parse_str(&created.id)?.get_version_num(), 7);
    assert_eq!((created.name.as_str(), created.stock, created.sellable, created.etag.as_str()), ("Kettle", 0, true, "1"));
    assert_eq!(shop.get(&created.id).await?, created);

    let change = patch(proto::ProductPatch { price: Some(eur("31.50")), etag: created.etag.clone(), ..Default::default() }, &created, None);
    let changed = products.update_product(shop.staff(change, key())).await?.into_inner();
    assert_eq!(changed.price, Some(eur("31.50")));
    assert_eq!((changed.name.as_str(), changed.etag.as_str()), ("Kettle", "2"));
    assert_eq!(shop.get(&created.id).await?, changed);

    let delete = proto::DeleteProductRequest { product_id: created.id.clone(), etag: changed.etag };
    products.delete_product(shop.staff(delete, key())).await?;
    let gone = shop.get(&created.id).await.expect_err("it was deleted");
    assert_eq!((gone.code(), reason(&gone)), (Code::NotFound, "PRODUCT_NOT_FOUND".to_owned()));
    let events = shop.events(&created.id, 3).await?;
    assert_eq!(
        events,
        [(1, "catalog.product_created".into()), (2, "catalog.product_updated".into()), (3, "catalog.product_deleted".into())]
    );
    shop.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_contract_or_the_price_is_refused() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let mut products = shop.products();
    for (product, expected) in [
        (proto::CreateProductRequest { name: String::new(), ..kettle() }, "REQUEST_INVALID"),
        (proto::CreateProductRequest { category: "Kitchen!".into(), ..kettle() }, "REQUEST_INVALID"),
        (proto::CreateProductRequest { price: None, ..kettle() }, "REQUEST_INVALID"),
        (proto::CreateProductRequest { price: Some(eur("1.999")), ..kettle() }, "PRICE_INVALID"),
        (proto::CreateProductRequest { price: Some(eur("-1")), ..kettle() }, "PRICE_INVALID"),
    ] {
        let refused = products.create_product(shop.staff(product, key())).await.expect_err(expected);
        assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, expected.to_owned()));
    }
    let created = products.create_product(shop.staff(kettle(), key())).await?.into_inner();
    for field in ["stock", "id", "etag"] {
        let change = patch(proto::ProductPatch { name: "Pot".into(), ..Default::default() }, &created, mask(&[field]));
        let refused = products.update_product(shop.staff(change, key())).await.expect_err("the field cannot be changed");
        assert_eq!(reason(&refused), "UPDATE_MASK_INVALID");
    }
    let emptied = patch(proto::ProductPatch::default(), &created, mask(&["tags", "description"]));
    let emptied = products.update_product(shop.staff(emptied, key())).await?.into_inner();
    assert!(emptied.tags.is_empty() && emptied.description.is_empty());
    assert_eq!(emptied.name, "Kettle");
    shop.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_products_are_not_found() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let mut products = shop.products();
    let product_id = Uuid::now_v7().to_string();
    assert_eq!(reason(&shop.get(&product_id).await.expect_err("unknown")), "PRODUCT_NOT_FOUND");
    let product = Some(proto::ProductPatch { name: "Pot".into(), ..Default::default() });
    let update = proto::UpdateProductRequest { product_id: product_id.clone(), product, update_mask: None };
    let refused = products.update_product(shop.staff(update, key())).await.expect_err("unknown");
    assert_eq!((refused.code(), reason(&refused)), (Code::NotFound, "PRODUCT_NOT_FOUND".to_owned()));
    let delete = proto::DeleteProductRequest { product_id, etag: String::new() };
    let refused = products.delete_product(shop.staff(delete, key())).await.expect_err("unknown");
    assert_eq!(reason(&refused), "PRODUCT_NOT_FOUND");
    shop.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_staff_maintains_products_and_only_peers_look_many_up() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let mut products = shop.products();
    let refused = products.create_product(shop.guest(kettle(), key())).await.expect_err("a guest");
    assert_eq!((refused.code(), reason(&refused)), (Code::Unauthenticated, "TOKEN_MISSING".to_owned()));
    let refused = products.create_product(shop.customer(kettle(), key())).await.expect_err("a customer");
    assert_eq!((refused.code(), reason(&refused)), (Code::PermissionDenied, "CALLER_NOT_ALLOWED".to_owned()));
    let created = products.create_product(shop.staff(kettle(), key())).await?.into_inner();
    let change = patch(proto::ProductPatch { name: "Pot".into(), ..Default::default() }, &created, None);
    let refused = products.update_product(shop.customer(change, key())).await.expect_err("a customer");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let delete = proto::DeleteProductRequest { product_id: created.id.clone(), etag: String::new() };
    let refused = products.delete_product(shop.customer(delete, key())).await.expect_err("a customer");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let batch = proto::BatchGetProductsRequest { product_ids: vec![created.id] };
    let refused = shop.lookup().batch_get_products(shop.staff(batch, key())).await.expect_err("no peer");
    assert!(matches!(refused.code(), Code::PermissionDenied | Code::Unauthenticated), "{refused}");
    shop.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_answers_the_same_and_does_nothing() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let mut products = shop.products();
    // The first answer must not be one to a repetition: a key that had none in time is given up.
    let (once, first) = loop {
        let once = key();
        match shop.products_once().create_product(shop.staff(kettle(), once.clone())).await {
            Err(late) if busy(&late) => {}
            first => break (once, first?),
        }
    };
    let again = products.create_product(shop.staff(kettle(), once.clone())).await?;
    assert!(first.metadata().get("idempotent-replayed").is_none());
    assert_eq!(again.metadata().get("idempotent-replayed").expect("it was done before"), "true");
    assert_eq!(first.get_ref(), again.get_ref());

    let other = proto::CreateProductRequest { name: "Pot".into(), ..kettle() };
    let refused = products.create_product(shop.staff(other, once)).await.expect_err("the key is used");
    assert_eq!(reason(&refused), "IDEMPOTENCY_KEY_REUSED");
    let refused = products.create_product(shop.staff(kettle(), String::new())).await.expect_err("no key");
    assert_eq!(reason(&refused), "IDEMPOTENCY_KEY_MISSING");

    let product_id = first.get_ref().id.clone();
    let delete = proto::DeleteProductRequest { product_id, etag: String::new() };
    let once = key();
    products.delete_product(shop.staff(delete.clone(), once.clone())).await?;
    products.delete_product(shop.staff(delete, once)).await?;
    assert_eq!(shop.events(&first.get_ref().id, 2).await?.len(), 2);
    shop.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_saw_the_same_version_one_wins() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let created = shop.products().create_product(shop.staff(kettle(), key())).await?.into_inner();
    let racers = (0..8).map(|nth| {
        let mut products = shop.products();
        let named = proto::ProductPatch { name: format!("Kettle {nth}"), etag: created.etag.clone(), ..Default::default() };
        let change = shop.staff(patch(named, &created, mask(&["name"])), key());
        async move { products.update_product(change).await }
    });
    let outcomes = futures_util::future::join_all(racers).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for lost in lost {
        let refused = lost.expect_err("partitioned");
        assert_eq!((refused.code(), reason(&refused)), (Code::Aborted, "ETAG_MISMATCH".to_owned()));
        assert_eq!(refused.metadata().get("x-http-code").expect("http knows it as 412"), "412");
    }
    let winner = won.into_iter().next().expect("one won")?.into_inner();
    assert_eq!((shop.get(&created.id).await?, winner.etag.as_str()), (winner.clone(), "2"));
    assert_eq!(shop.events(&created.id, 2).await?.len(), 2);

    let same = patch(proto::ProductPatch { name: winner.name.clone(), ..Default::default() }, &created, None);
    let same = shop.products().update_product(shop.staff(same, key())).await?.into_inner();
    assert_eq!(same.etag, "2", "a change that changes nothing is no new version");
    shop.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_look_up_many_in_the_order_asked() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let ids = shop.seed(40).await?;
    let unknown = Uuid::now_v7().to_string();
    let mut asked: Vec<String> = ids.iter().rev().map(ToString::to_string).collect();
    asked.insert(7, unknown.clone());
    for _cold_then_warm in 0..2 {
        let batch = proto::BatchGetProductsRequest { product_ids: asked.clone() };
        let answer = shop.lookup().batch_get_products(shop.peer(batch)).await?.into_inner();
        assert_eq!(answer.missing, std::slice::from_ref(&unknown));
        let found: Vec<&str> = answer.products.iter().map(|product| product.id.as_str()).collect();
        let expected: Vec<&str> = asked.iter().map(String::as_str).filter(|id| *id != unknown).collect();
        assert_eq!(found, expected);
    }
    shop.close().await
}
