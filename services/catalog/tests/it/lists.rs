//! Lists: every order, every filter, and what a page token is good for.

use crate::support::{Shop, eur, kettle, key, reason};
use mercato_contracts::mercato::catalog::v1::{self as proto, ProductSort};
use std::collections::HashSet;
use tonic::Code;

async fn walk(shop: &Shop, first: proto::ListProductsRequest) -> anyhow::Result<Vec<proto::Product>> {
    let mut seen = Vec::new();
    let mut request = first;
    loop {
        let page = shop.products().list_products(request.clone()).await?.into_inner();
        assert!(page.products.len() <= 7 && (page.products.len() == 7 || page.next_page_token.is_empty()));
        seen.extend(page.products);
        if page.next_page_token.is_empty() {
            return Ok(seen);
        }
        request.page_token = page.next_page_token;
    }
}

fn minor(product: &proto::Product) -> i64 {
    let amount = product.price.clone().unwrap_or_default().amount;
    mercato_chassis::money::Money::parse("EUR", &amount).map_or(-1, |money| money.minor())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_visits_each_product_once() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let ids: HashSet<String> = shop.seed(100).await?.iter().map(ToString::to_string).collect();
    // Ties in every order.
    for _ in 0..9 {
        shop.products().create_product(shop.staff(kettle(), key())).await?;
    }
    for sort in [ProductSort::Unspecified, ProductSort::PriceAsc, ProductSort::PriceDesc, ProductSort::Name] {
        let seen = walk(&shop, proto::ListProductsRequest { page_size: 7, sort: sort.into(), ..Default::default() }).await?;
        let distinct: HashSet<String> = seen.iter().map(|product| product.id.clone()).collect();
        assert_eq!((seen.len(), distinct.len()), (109, 109), "{sort:?}");
        assert!(distinct.is_superset(&ids));
        let ordered = seen.windows(2).all(|pair| match sort {
            ProductSort::Unspecified => {
                let at = |product: &proto::Product| product.created_at.map(|at| (at.seconds, at.nanos));
                at(&pair[0]) >= at(&pair[1])
            }
            ProductSort::PriceAsc => minor(&pair[0]) <= minor(&pair[1]),
            ProductSort::PriceDesc => minor(&pair[0]) >= minor(&pair[1]),
            ProductSort::Name => pair[0].name.to_lowercase() <= pair[1].name.to_lowercase(),
        });
        assert!(ordered, "{sort:?}");
    }
    shop.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_keep_what_they_name() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    shop.seed(120).await?;
    let all = walk(&shop, proto::ListProductsRequest { page_size: 7, ..Default::default() }).await?;
    for (category, min, max) in
        [("kitchen", "", ""), ("", "20", "80.50"), ("garden", "10.00", ""), ("shoes", "", "120"), ("nothing", "", "")]
    {
        let expected: HashSet<&str> = all
            .iter()
            .filter(|product| category.is_empty() || product.category == category)
            .filter(|product| min.is_empty() || minor(product) >= minor(&priced(min)))
            .filter(|product| max.is_empty() || minor(product) <= minor(&priced(max)))
            .map(|product| product.id.as_str())
            .collect();
        for sort in [ProductSort::Unspecified, ProductSort::PriceAsc, ProductSort::PriceDesc, ProductSort::Name] {
            let (category, price_min, price_max) = (category.into(), min.into(), max.into());
            let first =
                proto::ListProductsRequest { page_size: 7, category, price_min, price_max, sort: sort.into(), ..Default::default() };
            let seen = walk(&shop, first).await?;
            assert_eq!(seen.iter().map(|product| product.id.as_str()).collect::<HashSet<_>>(), expected);
            assert_eq!(seen.len(), expected.len());
        }
    }
    shop.close().await
}

fn priced(amount: &str) -> proto::Product {
    proto::Product { price: Some(eur(amount)), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_token_is_good_for_its_own_list_only() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    shop.seed(30).await?;
    let first = proto::ListProductsRequest { page_size: 5, price_min: "1".into(), ..Default::default() };
    let token = shop.products().list_products(first.clone()).await?.into_inner().next_page_token;
    let other_size = proto::ListProductsRequest { page_size: 3, page_token: token.clone(), ..first.clone() };
    shop.products().list_products(other_size).await?;
    for other in [
        proto::ListProductsRequest { page_token: format!("{token}x"), ..first.clone() },
        proto::ListProductsRequest { page_token: token.clone(), price_min: "2".into(), ..first.clone() },
        proto::ListProductsRequest { page_token: token.clone(), category: "kitchen".into(), ..first.clone() },
        proto::ListProductsRequest { page_token: token, sort: ProductSort::Name.into(), ..first.clone() },
    ] {
        let refused = shop.products().list_products(other).await.expect_err("another list");
        assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "PAGE_TOKEN_INVALID".to_owned()));
    }
    let finer = proto::ListProductsRequest { price_max: "1.0001".into(), ..first };
    assert_eq!(reason(&shop.products().list_products(finer).await.expect_err("too fine")), "PRICE_INVALID");
    shop.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn categories_count_their_products() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    shop.seed(24).await?;
    let categories = shop.products().list_categories(proto::ListCategoriesRequest {}).await?.into_inner().categories;
    assert_eq!(categories.len(), 12);
    assert!(categories.iter().all(|category| category.product_count == 2));
    assert!(categories.iter().any(|category| category.id == "home-textiles" && category.name == "Home textiles"));
    shop.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn seeding_again_adds_nothing() -> anyhow::Result<()> {
    let shop = Shop::open().await?;
    let ids = shop.seed(15).await?;
    assert_eq!(shop.seed(20).await?[..15], ids);
    let seen = walk(&shop, proto::ListProductsRequest { page_size: 7, ..Default::default() }).await?;
    assert_eq!(seen.len(), 20);
    assert_eq!(shop.events(&ids[0].to_string(), 1).await?, [(1, "catalog.product_created".to_owned())]);
    shop.close().await
}
