//! What only services may call: refused inside without a genuine credential, and not there at all at the edge.

use super::{door::Refused, grpc::channel, grpc::refused, settled, shop::shop, signer::unix};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use mercato_contracts::methods::{Caller, METHODS, Method};
use sha2::Sha256;
use tonic::{Code, Request, client::Grpc};

alone!(must_show_a_genuine_credential, have_no_way_in_at_the_edge, are_not_impersonated_at_the_edge);

fn peer_methods() -> impl Iterator<Item = &'static Method> {
    METHODS.iter().filter(|m| m.caller == Caller::Peer && !m.client_streaming && !m.server_streaming)
}

/// Calls a method with an empty message.
async fn call(server: &str, path: &'static str, credential: Option<&str>) -> Result<(), Refused> {
    let mut client = Grpc::new(channel(server));
    settled(async || {
        client.ready().await.expect("a server that listens");
        let mut request = Request::new(());
        if let Some(credential) = credential {
            request.metadata_mut().insert("x-mercato-peer", credential.parse().expect("ascii"));
        }
        let path = http::uri::PathAndQuery::from_static(path);
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        client.unary(request, path, codec).await.map(|_| ()).map_err(|status| refused(&status))
    })
    .await
}

/// A credential made by hand, as the decision record describes it.
fn credential(secret: &str, expiry: u64) -> String {
    let claim = format!("ordering.{expiry}");
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("hmac takes keys of any length");
    mac.update(claim.as_bytes());
    format!("{claim}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

fn role(method: &Method) -> &str {
    method.service.split('.').nth(1).expect("mercato.<role>.v1.<Service>")
}

async fn must_show_a_genuine_credential() {
    let shop = shop();
    for method in peer_methods() {
        let good = credential(&shop.peer_secret, unix() + 3600);
        let server = shop.inside(role(method));
        let none = call(&server, method.path, None).await.expect_err("no credential");
        assert_eq!((none.code, none.reason.as_str()), (Code::PermissionDenied, "CALLER_NOT_ALLOWED"), "{}: {none:?}", method.path);
        let forged = credential("another secret altogether", unix() + 3600);
        let expired = credential(&shop.peer_secret, unix() - 60);
        let renamed = good.replacen("ordering", "customer", 1);
        for bad in [forged.as_str(), &expired, &renamed, "nonsense"] {
            let told = call(&server, method.path, Some(bad)).await.expect_err("a bad credential");
            assert_eq!((told.code, told.reason.as_str()), (Code::Unauthenticated, "TOKEN_INVALID"), "{}: {told:?}", method.path);
        }
        // with a good one the call reaches the field rules, or is answered
        if let Err(told) = call(&server, method.path, Some(&good)).await {
            assert_eq!(told.code, Code::InvalidArgument, "{}: {told:?}", method.path);
        }
    }
}

async fn have_no_way_in_at_the_edge() {
    let shop = shop();
    let good = credential(&shop.peer_secret, unix() + 3600);
    for method in peer_methods() {
        let told = call(&shop.edge, method.path, Some(&good)).await.expect_err("no route");
        assert_eq!(told.code, Code::Unimplemented, "{}: {told:?}", method.path);
    }
    for foreign in
        ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"]
    {
        let told = call(&shop.edge, foreign, Some(&good)).await.expect_err("no route");
        assert_eq!(told.code, Code::Unimplemented, "{foreign}: {told:?}");
    }
}

/// The header is taken away from clients: a forged one does no harm and a good one helps nobody.
async fn are_not_impersonated_at_the_edge() {
    let shop = shop();
    let good = credential(&shop.peer_secret, unix() + 3600);
    let told = call(&shop.edge, "/mercato.ordering.v1.OrderService/ListOrders", Some(&good)).await.expect_err("no token");
    assert_eq!(told.code, Code::Unauthenticated, "{told:?}");
    call(&shop.edge, "/mercato.catalog.v1.ProductService/ListCategories", Some("nonsense")).await.expect("public, header ignored");
}
