//! Tokens that are not ours are refused by Envoy, and by the services asked directly. Each differs from a good one in one respect.

use super::{
    door::{Ask, Refused},
    grpc::{channel, refused, with_headers},
    rest, settled,
    shop::{Shop, shop},
    signer::unix,
    until,
};
use mercato_contracts::mercato::ordering::v1::{ListOrdersRequest, order_service_client::OrderServiceClient};
use serde_json::{Value, json};
use tonic::{Code, Request};

alone!(
    that_are_good_pass,
    that_are_not_ours_are_refused_everywhere,
    with_a_strange_header_or_claim_are_refused_everywhere,
    are_checked_on_public_methods_too
);

/// Asks for the caller's orders at a gRPC server.
async fn at(server: &str, token: Option<&str>) -> Result<(), Refused> {
    let ask = Ask { method: "ListOrders", body: Value::Null, token: token.map(str::to_owned), key: None };
    settled(async || {
        let request = with_headers(Request::new(ListOrdersRequest::default()), &ask);
        OrderServiceClient::new(channel(server)).list_orders(request).await.map(|_| ()).map_err(|status| refused(&status))
    })
    .await
}

async fn over_rest(path: &str, token: Option<&str>) -> Result<(), Refused> {
    let mut request = reqwest::Client::new().get(format!("{}{path}", shop().edge));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = rest::reply(request).await.expect("an answer");
    if answer.status == 200 { Ok(()) } else { Err(rest::refused(answer.status, &answer.bytes)) }
}

/// Every kind of bad token, and how Envoy answers over REST: for another audience it says 403.
fn bad(shop: &Shop) -> Vec<(&'static str, Option<String>, u16)> {
    let good = shop.signer.claims(&["admin"]);
    let but = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        shop.signer.sign(&claims)
    };
    let long_gone = {
        let mut claims = good.clone();
        claims["iat"] = json!(unix() - 600);
        claims["exp"] = json!(unix() - 300);
        shop.signer.sign(&claims)
    };
    vec![
        ("missing", None, 401),
        ("not a token", Some("not.a.token".into()), 401),
        ("alg none", Some(shop.signer.sign_with_nothing(&good)), 401),
        ("HS256 with the public key", Some(shop.signer.sign_as_hmac(&good)), 401),
        ("another key", Some(shop.signer.sign_with_another(&good)), 401),
        ("another issuer", Some(but("iss", json!("https://elsewhere.example"))), 401),
        ("another audience", Some(but("aud", json!("another-api"))), 403),
        ("expired", Some(long_gone), 401),
    ]
}

/// The control: without it, the refusals below would prove nothing.
async fn that_are_good_pass() {
    let shop = shop();
    let token = shop.signer.good(&[]);
    over_rest("/api/orders", Some(&token)).await.expect("a good token");
    at(&shop.edge, Some(&token)).await.expect("a good token");
    until("ordering knows the key", async || at(&shop.inside("ordering"), Some(&token)).await.ok()).await;
}

async fn that_are_not_ours_are_refused_everywhere() {
    let shop = shop();
    let token = shop.signer.good(&[]);
    until("ordering knows the key", async || at(&shop.inside("ordering"), Some(&token)).await.ok()).await;
    for (what, token, http) in bad(shop) {
        let token = token.as_deref();
        let outside = over_rest("/api/orders", token).await.expect_err(what);
        assert_eq!(outside.http, Some(http), "{what}: {outside:?}");
        assert!(outside.message.contains("Jwt"), "{what} was not refused by envoy: {outside:?}");
        let outside = at(&shop.edge, token).await.expect_err(what);
        let expected = if http == 403 { Code::PermissionDenied } else { Code::Unauthenticated };
        assert_eq!(outside.code, expected, "{what}: {outside:?}");
        assert!(outside.message.contains("Jwt"), "{what} was not refused by envoy: {outside:?}");
        let inside = at(&shop.inside("ordering"), token).await.expect_err(what);
        assert_eq!(inside.code, Code::Unauthenticated, "{what}: {inside:?}");
        let reason = if token.is_none() { "TOKEN_MISSING" } else { "TOKEN_INVALID" };
        assert_eq!(inside.reason, reason, "{what}: {inside:?}");
    }
}

/// Headers that tell how to verify, and claims that are missing or of another type. Whoever looks first refuses; nobody lets one in.
fn strange(shop: &Shop) -> Vec<(String, String)> {
    let good = shop.signer.claims(&["admin"]);
    let mut all = vec![("a key of one's own in `jwk`".to_owned(), shop.signer.sign_under_own(&good))];
    for kid in ["../../../../dev/null", "suite' or '1'='1", "", "http://127.0.0.1:1/keys"] {
        all.push((format!("kid {kid:?}"), shop.signer.sign_under(&json!({ "kid": kid }), &good)));
    }
    for algorithm in ["none", "HS256", "RS256", "ES256", "eddsa", ""] {
        all.push((format!("alg {algorithm:?}"), shop.signer.sign_under(&json!({ "alg": algorithm }), &good)));
    }
    let list = json!(["mercato-api"]);
    for (name, values) in [
        ("iss", vec![json!(1), json!(""), json!(["https://mercato.local"])]),
        ("aud", vec![json!(1), json!(""), json!({ "mercato-api": true })]),
        ("sub", vec![json!(1), json!(""), json!("admin"), list.clone(), json!("01890000-0000-7000-8000-00000000000")]),
        ("exp", vec![json!((unix() + 300).to_string()), json!(-1), list.clone(), json!(unix() - 6)]),
        ("iat", vec![json!(unix().to_string()), list, json!(unix() + 3600)]),
        ("nbf", vec![json!(unix() + 3600)]),
        ("roles", vec![json!("admin"), json!({ "admin": true }), json!([1])]),
    ] {
        for value in values {
            let mut claims = good.clone();
            claims[name] = value.clone();
            all.push((format!("{name} {value}"), shop.signer.sign(&claims)));
        }
        if !["nbf", "roles"].contains(&name) {
            let mut claims = good.clone();
            claims.as_object_mut().expect("an object").remove(name);
            all.push((format!("no {name}"), shop.signer.sign(&claims)));
        }
    }
    all
}

async fn with_a_strange_header_or_claim_are_refused_everywhere() {
    let shop = shop();
    let token = shop.signer.good(&[]);
    until("ordering knows the key", async || at(&shop.inside("ordering"), Some(&token)).await.ok()).await;
    for (what, token) in strange(shop) {
        let outside = over_rest("/api/orders", Some(&token)).await.expect_err(&what);
        assert!(matches!(outside.http, Some(401 | 403)), "{what}: {outside:?}");
        let outside = at(&shop.edge, Some(&token)).await.expect_err(&what);
        assert!(matches!(outside.code, Code::Unauthenticated | Code::PermissionDenied), "{what}: {outside:?}");
        let inside = at(&shop.inside("ordering"), Some(&token)).await.expect_err(&what);
        assert_eq!((inside.code, inside.reason.as_str()), (Code::Unauthenticated, "TOKEN_INVALID"), "{what}: {inside:?}");
    }
    // clocks may differ by some seconds, and `x5u` and `jku` are not looked at
    let mut late = shop.signer.claims(&[]);
    late["iat"] = json!(unix() + 1);
    at(&shop.inside("ordering"), Some(&shop.signer.sign(&late))).await.expect("within the leeway");
    let pointing = json!({ "jku": "http://127.0.0.1:1/keys", "x5u": "http://127.0.0.1:1/chain" });
    let token = shop.signer.sign_under(&pointing, &shop.signer.claims(&[]));
    at(&shop.inside("ordering"), Some(&token)).await.expect("verified with the published key, whatever it points at");
}

async fn are_checked_on_public_methods_too() {
    let expired = bad(shop()).pop().and_then(|(_, token, _)| token);
    over_rest("/api/products?pageSize=1", None).await.expect("public");
    over_rest("/api/products?pageSize=1", expired.as_deref()).await.expect_err("expired").is(401, "TOKEN_INVALID");
}
