//! What the edge serves beside calls: documents, probes, and the list of services for tools.

use super::{door, grpc::channel, rest, settled_but, shop::shop, shopper::Shopper, until};
use mercato_contracts::methods::METHODS;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    process::{Command, Output},
};
use tonic::Code;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};

alone!(
    probes_answer,
    the_api_document_tells_only_what_is_there,
    the_page_of_the_document_needs_no_other_host,
    keys_are_public,
    tools_find_every_service,
    the_smoke_test_buys
);

async fn get(path: &str) -> (u16, String, String) {
    let answer = rest::reply(reqwest::Client::new().get(format!("{}{path}", shop().edge))).await.expect("an answer");
    let kind = answer.headers.get("content-type").map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default();
    (answer.status, kind, String::from_utf8(answer.bytes.into()).expect("text"))
}

async fn probes_answer() {
    for path in ["/healthz", "/health"] {
        assert_eq!(get(path).await.0, 200, "{path}");
    }
    let (status, _, body) = get("/nowhere").await;
    rest::refused(status, body.as_bytes()).is(404, "NOT_FOUND");
}

/// A path may answer that there is no such product, but never that there is no such path.
async fn the_api_document_tells_only_what_is_there() {
    let (status, kind, text) = get("/openapi.json").await;
    assert_eq!((status, kind.as_str()), (200, "application/json"));
    let document: Value = serde_json::from_str(&text).expect("JSON");
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let paths = document["paths"].as_object().expect("paths");
    let described: usize = paths.values().map(|verbs| operations(verbs).count()).sum();
    let routes: usize = METHODS.iter().map(|method| method.http.len()).sum();
    assert_eq!(described, routes, "operations and routes");
    let client = reqwest::Client::new();
    for (path, verbs) in paths {
        for (verb, _) in operations(verbs) {
            let url = format!("{}{}", shop().edge, filled(path));
            let verb = reqwest::Method::from_bytes(verb.to_uppercase().as_bytes()).expect("a verb");
            let mut request = client.request(verb.clone(), url);
            if verb != reqwest::Method::GET && verb != reqwest::Method::DELETE {
                request = request.header("content-type", "application/json").body("{}");
            }
            let rest::Reply { status, bytes: body, .. } = rest::reply(request).await.expect("an answer");
            if status != 200 {
                let refused = rest::refused(status, &body);
                assert!(status < 500 && refused.reason != "NOT_FOUND", "{verb} {path}: {refused:?}");
                assert!([400, 401, 404].contains(&status), "{verb} {path}: {refused:?}");
            }
        }
    }
}

/// The operations of a path; `parameters` is none.
fn operations(verbs: &Value) -> impl Iterator<Item = (&String, &Value)> {
    verbs.as_object().into_iter().flatten().filter(|(name, _)| ["get", "put", "post", "patch", "delete"].contains(&name.as_str()))
}

fn filled(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, tail) = after.split_once('}').expect("a closed brace");
        out += before;
        out += if name == "provider" { "dev" } else { "01890000-0000-7000-8000-000000000000" };
        rest = tail;
    }
    out + rest
}

async fn the_page_of_the_document_needs_no_other_host() {
    let (status, kind, html) = get("/docs").await;
    assert_eq!(status, 200);
    assert!(kind.starts_with("text/html"), "{kind}");
    assert!(html.contains("/openapi.json"));
    for outside in ["http://", "https://", "src=\"//", "href=\"//", "@import"] {
        assert!(!html.contains(outside), "{outside} in the page");
    }
}

async fn keys_are_public() {
    let (status, _, text) = get("/.well-known/jwks.json").await;
    assert_eq!(status, 200);
    let keys: Value = serde_json::from_str(&text).expect("JSON");
    let keys = keys["keys"].as_array().expect("keys");
    assert!(keys.iter().all(|key| key["kty"] == "OKP" && key["alg"] == "EdDSA" && key.get("d").is_none()), "{text}");
    assert!(keys.len() >= 2, "the shop's own key and the suite's: {text}");
}

/// Asks a server for its list of services by reflection.
async fn listed(server: &str) -> Option<BTreeSet<String>> {
    let ask = ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let mut client = ServerReflectionClient::new(channel(server));
    let mut answers = client.server_reflection_info(futures_util::stream::iter([ask])).await.ok()?.into_inner();
    match answers.message().await.ok()??.message_response? {
        MessageResponse::ListServicesResponse(list) => Some(list.service.into_iter().map(|service| service.name).collect()),
        other => panic!("{other:?}"),
    }
}

async fn tools_find_every_service() {
    let found = until("reflection answers", async || listed(&shop().tools()).await).await;
    let ours: BTreeSet<String> = METHODS.iter().map(|method| method.service.to_owned()).collect();
    let missing: Vec<_> = ours.difference(&found).collect();
    assert!(missing.is_empty(), "{missing:?} not in {found:?}");
    for role in ["catalog", "inventory", "ordering", "payment", "customer"] {
        let found = until("reflection answers", async || listed(&shop().inside(role)).await).await;
        assert!(found.iter().any(|service| service.starts_with(&format!("mercato.{role}."))), "{role}: {found:?}");
    }
}

/// How it tells that something had no time.
const NOT_NOW: [Code; 4] = [Code::DeadlineExceeded, Code::Unavailable, Code::ResourceExhausted, Code::Aborted];

/// What a pipeline runs after a release, and what it says when the door is shut to it.
async fn the_smoke_test_buys() {
    let (email, password) = &shop().staff;
    let product = Shopper::staff(&door::grpc()).await.product("1.00", 100).await;
    let smoke_once = |password: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mercato"));
        command.args(["smoke", "--url", &shop().edge, "--product", &product, "--seconds", "300"]).env_clear();
        command.env("MERCATO_SMOKE_EMAIL", email).env("MERCATO_SMOKE_PASSWORD", password);
        tokio::task::spawn_blocking(move || command.output().expect("mercato runs"))
    };
    // it asks a few times itself, which is not enough on every machine
    let not_now = |ended: &Output| {
        let told = String::from_utf8_lossy(&ended.stderr);
        !ended.status.success() && NOT_NOW.iter().any(|code| told.contains(code.description()))
    };
    let smoke = async |password: &str| settled_but(not_now, async || smoke_once(password).await.expect("it ends")).await;
    let bought = smoke(password).await;
    let told = String::from_utf8_lossy(&bought.stdout);
    assert!(bought.status.success() && told.contains("it is paid"), "{told}{}", String::from_utf8_lossy(&bought.stderr));
    let refused = smoke("not the password").await;
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).starts_with("error: sign-in: "), "{}", String::from_utf8_lossy(&refused.stderr));
}
