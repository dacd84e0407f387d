//! Signing keys that come and go while customers are served.

use super::{
    door::{Ask, Refused},
    grpc::{channel, refused, with_headers},
    settled,
    shop::shop,
    signer::Signer,
    until,
};
use mercato_contracts::mercato::ordering::v1::{ListOrdersRequest, order_service_client::OrderServiceClient};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tonic::{Code, Request};

one_at_a_time!(of_keys_harms_nobody_and_a_withdrawn_one_is_out, of_key_names_by_strangers_does_not_reach_the_issuer);

async fn orders(server: &str, token: String) -> Result<(), Refused> {
    let ask = Ask { method: "ListOrders", body: Value::Null, token: Some(token), key: None };
    settled(async || {
        let request = with_headers(Request::new(ListOrdersRequest::default()), &ask);
        OrderServiceClient::new(channel(server)).list_orders(request).await.map(drop).map_err(|status| refused(&status))
    })
    .await
}

fn customer_database() -> &'static str {
    shop().databases.iter().find(|(role, _)| *role == "customer").map(|(_, url)| url).expect("the customer database")
}

/// A second key is published and used while the first one still is; then the first is taken away.
async fn of_keys_harms_nobody_and_a_withdrawn_one_is_out() {
    let shop = shop();
    let old = Signer::publish_as("rotation-old", customer_database()).await.expect("a key");
    until("the first key is known", async || orders(&shop.edge, old.good(&[])).await.ok()).await;
    let new = Signer::publish_as("rotation-new", customer_database()).await.expect("a key");
    until("the second key is known", async || {
        orders(&shop.edge, old.good(&[])).await.expect("tokens of the first one are good all the time");
        orders(&shop.edge, new.good(&[])).await.ok()
    })
    .await;

    let mut database = PgConnection::connect(customer_database()).await.expect("the customer database");
    sqlx::query("delete from signing_key where kid = 'rotation-old'").execute(&mut database).await.expect("the key is withdrawn");
    until("the withdrawn key is refused", async || {
        orders(&shop.edge, new.good(&[])).await.expect("the other key is good all the time");
        orders(&shop.edge, old.good(&[])).await.err().filter(|refused| refused.code == Code::Unauthenticated)
    })
    .await;
}

/// Each name that is not known could be a new key; asking for each would let strangers knock the issuer over.
async fn of_key_names_by_strangers_does_not_reach_the_issuer() {
    let shop = shop();
    let fetched = async || -> u64 {
        let metrics = shop.metrics().await;
        let ours = |line: &&str| line.starts_with("mercato_rpc_calls_total{") && line.contains("KeyService/GetJsonWebKeySet");
        metrics.lines().filter(ours).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    orders(&shop.inside("ordering"), shop.signer.good(&[])).await.ok();
    let (before, began) = (fetched().await, std::time::Instant::now());
    for number in 0..300 {
        let stranger = shop.signer.sign_under(&serde_json::json!({ "kid": format!("unknown-{number}") }), &shop.signer.claims(&["admin"]));
        let refused = orders(&shop.inside("ordering"), stranger).await.expect_err("an unknown key");
        assert_eq!(refused.code, Code::Unauthenticated, "{refused:?}");
    }
    // the edge fetches by its own clock; beside that, one fetch in five seconds may follow from names nobody knows
    let asked = fetched().await - before;
    let seconds = began.elapsed().as_secs();
    let most = 2 + seconds / 5 + 2 * (1 + seconds);
    assert!(asked <= most, "{asked} fetches in {seconds} s for 300 unknown names");
}
