//! Keys and what they sign.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use mercato_contracts::mercato::customer::v1::key_service_client::KeyServiceClient;
use mercato_contracts::mercato::customer::v1::{Customer, GetCustomerRequest, GetJsonWebKeySetRequest};
use serde_json::Value;
use tonic::{Code, Request, Response, Status};

use crate::assert_refused;
use crate::world::{PASSWORD, World, bearer};

fn part(token: &str, at: usize) -> Value {
    let part = token.split('.').nth(at).expect("a token has three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("json")
}

fn kid(token: &str) -> String {
    part(token, 0)["kid"].as_str().expect("every token names its key").to_owned()
}

async fn published(world: &World) -> Vec<String> {
    let set = world.key_set().await;
    set["keys"].as_array().expect("keys").iter().map(|key| key["kid"].as_str().expect("kid").to_owned()).collect()
}

async fn login(world: &World) -> String {
    world.login("sample", PASSWORD).await.expect("the password is right").access_token
}

async fn present(world: &World, token: &str) -> Result<Response<Customer>, Status> {
    let request = bearer(Request::new(GetCustomerRequest { customer_id: "me".into() }), token);
    world.customers().get_customer(request).await
}

async fn execute(world: &World, statement: &'static str) {
    sqlx::query(statement).execute(&world.pool).await.expect("the statement is good");
}

/// Starting an instance runs the rotation, as its job does every minute.
async fn rotate(world: &World) {
    let (running, channel) = world.another().await;
    drop(channel);
    World::stop(running).await;
}

#[tokio::test]
async fn the_key_set_has_public_halves_only_and_verifies_what_was_signed() {
    let world = World::start().await;
    let (customer, tokens) = world.signed_in("sample").await;
    let claims = part(&tokens.access_token, 1);
    assert_eq!((&claims["iss"], &claims["aud"]), (&"https://mercato.local".into(), &"mercato-api".into()));
    assert_eq!((claims["sub"].as_str(), &claims["roles"]), (Some(customer.id.as_str()), &Value::Array(vec![])));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
    assert!(claims["jti"].is_string() && claims["sid"].is_string());
    let header = part(&tokens.access_token, 0);
    assert_eq!((header["alg"].as_str(), header["typ"].as_str()), (Some("EdDSA"), Some("JWT")));

    let set = world.key_set().await;
    let key = &set["keys"][0];
    assert_eq!(key["kid"], header["kid"]);
    let names: Vec<&String> = key.as_object().unwrap().keys().collect();
    assert!(names.iter().all(|name| ["kty", "crv", "alg", "use", "kid", "x"].contains(&name.as_str())), "{names:?}");
    assert!(present(&world, &tokens.access_token).await.is_ok(), "the policy layer verifies it against the key set");

    let sealed: Vec<u8> = sqlx::query_scalar("select sealed_key from signing_key").fetch_one(&world.pool).await.unwrap();
    assert_eq!(sealed.len(), 24 + 32 + 16, "nonce, key, tag");
    let mut forged: Vec<&str> = tokens.access_token.split('.').collect();
    let claims = URL_SAFE_NO_PAD.encode(part(&tokens.access_token, 1).to_string().replace("\"roles\":[]", "\"roles\":[\"admin\"]"));
    forged[1] = &claims;
    assert_refused(present(&world, &forged.join(".")).await, Code::Unauthenticated, "TOKEN_INVALID");
    world.end().await;
}

#[tokio::test]
async fn nobody_but_a_peer_gets_the_key_set_from_here() {
    let world = World::start().await;
    let (_, tokens) = world.signed_in("sample").await;
    let (running, channel) = world.another().await;
    let mut keys = KeyServiceClient::new(channel);
    let anonymous = keys.get_json_web_key_set(GetJsonWebKeySetRequest {}).await.unwrap_err();
    assert!(matches!(anonymous.code(), Code::Unauthenticated | Code::PermissionDenied), "{anonymous:?}");
    let with_token = keys.get_json_web_key_set(bearer(Request::new(GetJsonWebKeySetRequest {}), &tokens.access_token)).await;
    assert_refused(with_token, Code::PermissionDenied, "CALLER_NOT_ALLOWED");
    drop(keys);
    World::stop(running).await;
    world.end().await;
}

#[tokio::test]
async fn a_new_key_is_published_before_it_signs_and_the_old_one_stays_while_its_tokens_live() {
    let world = World::start().await;
    world.register("sample").await;
    let old_token = login(&world).await;
    let old = kid(&old_token);
    assert_eq!(published(&world).await, std::slice::from_ref(&old));

    execute(&world, "update signing_key set active_from = active_from - interval '30 days'").await;
    rotate(&world).await;
    let both = published(&world).await;
    assert_eq!((both.len(), &both[0]), (2, &old));
    let new = both[1].clone();
    let ahead: bool = sqlx::query_scalar("select active_from > now() + interval '9 minutes' from signing_key where kid = $1")
        .bind(&new)
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert!(ahead, "it must be known before it signs");
    assert_eq!(kid(&login(&world).await), old, "it does not sign yet");
    rotate(&world).await;
    assert_eq!(published(&world).await, both, "one rotation is enough");

    execute(&world, "update signing_key set active_from = now() where retired_at is null").await;
    execute(&world, "update signing_key set retired_at = now() where retired_at is not null").await;
    let new_token = login(&world).await;
    assert_eq!(kid(&new_token), new);
    assert_eq!(published(&world).await, both);
    let (running, channel) = world.another().await;
    for token in [&old_token, &new_token] {
        let mut customers = mercato_contracts::mercato::customer::v1::customer_service_client::CustomerServiceClient::new(channel.clone());
        customers.get_customer(bearer(Request::new(GetCustomerRequest { customer_id: "me".into() }), token)).await.unwrap();
    }
    drop(channel);
    World::stop(running).await;

    execute(&world, "update signing_key set retired_at = now() - interval '21 minutes' where retired_at is not null").await;
    assert_eq!(published(&world).await, std::slice::from_ref(&new));
    rotate(&world).await;
    let left: Vec<String> = sqlx::query_scalar("select kid from signing_key").fetch_all(&world.pool).await.unwrap();
    assert_eq!(left, [new]);
    world.end().await;
}

#[tokio::test]
async fn withdrawn_keys_sign_nothing_more_and_many_at_once_make_one_new_key() {
    let world = World::start().await;
    world.register("sample").await;
    let old = kid(&login(&world).await);
    execute(&world, "update signing_key set retired_at = 'epoch'").await;
    let mut kids: Vec<String> = join_all((0..6).map(|_| login(&world))).await.iter().map(|token| kid(token)).collect();
    kids.dedup();
    assert_eq!(kids.len(), 1);
    assert!(!kids.contains(&old));
    assert_eq!(published(&world).await, kids);
    world.end().await;
}

#[tokio::test]
async fn another_secret_or_a_bad_one_keeps_the_role_from_starting() {
    let world = World::start().await;
    let other = world.start_error("MERCATO_KEY_SECRET", &"0f".repeat(32)).await.expect("keys of another secret");
    assert!(other.contains("MERCATO_KEY_SECRET"), "{other}");
    let short = world.start_error("MERCATO_KEY_SECRET", "secret").await.expect("a bad secret");
    assert!(short.contains("64 hex digits") && !short.contains("\"secret\""), "{short}");
    world.end().await;
}
