//! What the catalog hears: stock from inventory, and its own events on other instances.

use crate::support::{Shop, becomes, kettle, key, mask, patch, reason};
use mercato_contracts::mercato::catalog::v1 as proto;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn stock_follows_inventory_and_leaves_the_etag_alone() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let created = shop.products().create_product(shop.staff(kettle(), key())).await?.into_inner();
    assert_eq!(shop.get(&created.id).await?.stock, 0);
    // Versions are inventory's: the third message is older than the second and counts for nothing.
    for (sequence, available, version) in [(1, 12, 1), (2, 7, 5), (3, 99, 4)] {
        shop.inventory_says(&created.id, sequence, available, version).await?;
    }
    // Whatever the partition of the product is, one of these comes behind it.
    let others: Vec<String> = (0..16).map(|_| Uuid::now_v7().to_string()).collect();
    for other in &others {
        shop.inventory_says(other, 1, 1, 1).await?;
    }
    for other in &others {
        shop.heard(other, 1).await?;
    }
    // It is told what it has stored after it has stored it.
    becomes("the stock is shown", async || Ok(shop.get(&created.id).await?.stock == 7)).await?;
    assert_eq!(shop.get(&created.id).await?.etag, "1");
    let listed = shop.products().list_products(proto::ListProductsRequest::default()).await?.into_inner().products;
    assert_eq!(listed[0].stock, 7);
    let change = patch(proto::ProductPatch { sellable: Some(false), ..Default::default() }, &created, mask(&["sellable"]));
    let changed = shop.products().update_product(shop.staff(change, key())).await?.into_inner();
    assert_eq!((changed.stock, changed.sellable), (7, false));
    shop.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn word_of_the_stock_may_come_before_the_product() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let id = mercato_catalog::seed::id(0).to_string();
    shop.inventory_says(&id, 1, 5, 1).await?;
    shop.heard(&id, 1).await?;
    shop.seed(1).await?;
    assert_eq!(shop.get(&id).await?.stock, 5);
    shop.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_on_one_instance_is_seen_on_another() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let second = shop.second_instance().await?;
    let created = shop.products().create_product(shop.staff(kettle(), key())).await?.into_inner();
    assert_eq!(second.get(&created.id).await?, created);
    // The second instance has the product in memory now. It hears events from the moment it joined, so changes go on until it does.
    let mut changes = 0;
    becomes("a change is seen", async || {
        changes += 1;
        let named = proto::ProductPatch { name: format!("Kettle {changes}"), ..Default::default() };
        let changed = shop.products().update_product(shop.staff(patch(named, &created, None), key())).await?.into_inner();
        assert_eq!(shop.get(&created.id).await?, changed);
        Ok(second.get(&created.id).await?.name != "Kettle")
    })
    .await?;
    let delete = proto::DeleteProductRequest { product_id: created.id.clone(), etag: String::new() };
    shop.products().delete_product(shop.staff(delete, key())).await?;
    becomes("the deletion is seen", async || Ok(second.get(&created.id).await.is_err_and(|gone| reason(&gone) == "PRODUCT_NOT_FOUND")))
        .await?;
    second.close().await?;
    shop.close().await
}
