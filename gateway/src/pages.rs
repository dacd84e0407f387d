//! The gateway's HTTP face, reached through Envoy: `/.well-known/jwks.json`, `/openapi.json`, and a page that needs no other host.

use axum::{
    Router,
    extract::State,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use mercato_chassis::grpc::client::Peer;
use mercato_contracts::OPENAPI;
use mercato_contracts::mercato::customer::v1::{GetJsonWebKeySetRequest, key_service_client::KeyServiceClient};
use std::sync::{Arc, Mutex, PoisonError};

const PAGE: &str = include_str!("../assets/docs.html");
/// The page runs its own inline script and style and talks to its own host only.
const PAGE_POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";

#[derive(Clone)]
struct Pages {
    customer: Peer,
    /// The last keys heard of: they go on being valid while customer is away.
    last_keys: Arc<Mutex<Option<String>>>,
}

/// All pages; `customer` is asked for the keys.
pub fn router(customer: Peer) -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::temporary("/docs") }))
        .route("/docs", get(docs))
        .route("/openapi.json", get(openapi))
        .route("/.well-known/jwks.json", get(keys))
        .with_state(Pages { customer, last_keys: Arc::default() })
}

async fn docs() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (HeaderName::from_static("content-security-policy"), PAGE_POLICY)];
    (headers, PAGE).into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "public, max-age=300")], OPENAPI).into_response()
}

async fn keys(State(pages): State<Pages>) -> Response {
    let fresh = KeyServiceClient::new(pages.customer.clone()).get_json_web_key_set(GetJsonWebKeySetRequest {}).await;
    let mut last = pages.last_keys.lock().unwrap_or_else(PoisonError::into_inner);
    match fresh {
        Ok(set) => *last = Some(set.into_inner().json),
        Err(status) => tracing::warn!(code = ?status.code(), "the keys could not be fetched, answering with the last ones known"),
    }
    match last.as_ref() {
        Some(json) => {
            let headers = [(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, "public, max-age=60")];
            (headers, json.clone()).into_response()
        }
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
