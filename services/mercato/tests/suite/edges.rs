//! How the edge is hardened, read from the running Envoy and not from what we believe to have told it.

use super::shop::shop;
use mercato_contracts::methods::{Caller, METHODS};
use serde_json::{Value, json};

alone!(are_hardened_as_they_run, demand_a_token_for_all_but_public_methods, have_an_admin_interface_for_insiders_only);

async fn dump() -> Vec<Value> {
    let text = reqwest::get(format!("{}/config_dump", shop().edge_admin)).await.expect("the dump").text().await.expect("text");
    let dump: Value = serde_json::from_str(&text).expect("JSON");
    dump["configs"].as_array().expect("configs").clone()
}

/// The connection manager of the public listener.
fn manager(dump: &[Value]) -> Value {
    let all = dump.iter().filter_map(|config| config["dynamic_listeners"].as_array().or(config["static_listeners"].as_array()));
    let listeners =
        all.flatten().map(|entry| if entry["listener"].is_object() { &entry["listener"] } else { &entry["active_state"]["listener"] });
    let edge = listeners.clone().find(|listener| listener["name"] == "edge").expect("the public listener");
    assert_eq!(edge["per_connection_buffer_limit_bytes"], 1_048_576);
    edge["filter_chains"][0]["filters"][0]["typed_config"].clone()
}

fn filter<'a>(manager: &'a Value, name: &str) -> &'a Value {
    let filters = manager["http_filters"].as_array().expect("filters");
    &filters.iter().find(|filter| filter["name"].as_str().is_some_and(|n| n.ends_with(name))).unwrap_or_else(|| panic!("no {name}"))["typed_config"]
}

async fn are_hardened_as_they_run() {
    let dump = dump().await;
    let manager = manager(&dump);
    for (place, expected) in [
        ("/use_remote_address", json!(true)),
        ("/normalize_path", json!(true)),
        ("/merge_slashes", json!(true)),
        ("/path_with_escaped_slashes_action", json!("REJECT_REQUEST")),
        ("/strip_any_host_port", json!(true)),
        ("/server_header_transformation", Value::Null),
        ("/server_name", json!("mercato")),
        ("/max_request_headers_kb", json!(16)),
        ("/request_headers_timeout", json!("5s")),
        ("/request_timeout", json!("30s")),
        ("/stream_idle_timeout", json!("300s")),
        ("/common_http_protocol_options/headers_with_underscores_action", json!("REJECT_REQUEST")),
        ("/common_http_protocol_options/max_headers_count", json!(64)),
        ("/common_http_protocol_options/idle_timeout", json!("300s")),
        ("/common_http_protocol_options/max_connection_duration", json!("3600s")),
        ("/http2_protocol_options/max_concurrent_streams", json!(100)),
        ("/http2_protocol_options/initial_stream_window_size", json!(65536)),
        ("/http2_protocol_options/initial_connection_window_size", json!(1_048_576)),
    ] {
        // OVERWRITE is the default of its enum, so it is not written down
        assert_eq!(manager.pointer(place).cloned().unwrap_or_default(), expected, "{place}");
    }
    let removed = manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"].as_array().expect("mutations");
    for header in ["x-mercato-peer", "x-http-code", "x-envoy-original-path", "traceparent", "baggage"] {
        assert!(removed.iter().any(|mutation| mutation["remove"] == header), "{header} is not taken away");
    }
    let jwt = &filter(&manager, "jwt_authn")["providers"]["mercato"];
    assert_eq!((&jwt["require_expiration"], &jwt["issuer"]), (&json!(true), &json!("https://mercato.local")));
    assert_eq!(jwt["from_headers"], json!([{ "name": "authorization", "value_prefix": "Bearer " }]), "no token from cookies or queries");
    let body = filter(&manager, "body_limit");
    assert!(body.to_string().contains("262144"), "{body}");
    let answers = reqwest::get(format!("{}/api/categories", shop().edge)).await.expect("an answer");
    for (header, value) in [("x-content-type-options", "nosniff"), ("server", "mercato"), ("cache-control", "no-store")] {
        assert_eq!(answers.headers().get(header).map(|v| v.to_str().expect("text")), Some(value), "{header}");
    }
    assert!(answers.headers().keys().all(|name| !name.as_str().starts_with("x-envoy")), "{:?}", answers.headers());
    let bootstrap = dump.iter().find(|config| config["bootstrap"].is_object()).expect("the bootstrap");
    let actions = bootstrap["bootstrap"]["overload_manager"]["actions"].as_array().expect("actions");
    assert!(actions.iter().any(|action| action["name"] == "envoy.overload_actions.stop_accepting_requests"));
}

/// Each route, as Envoy runs it, against the policy of its method.
async fn demand_a_token_for_all_but_public_methods() {
    let dump = dump().await;
    let manager = manager(&dump);
    let routes = manager["route_config"]["virtual_hosts"][0]["routes"].as_array().expect("routes").clone();
    let named = |name: &str| routes.iter().find(|route| route["name"] == name);
    for method in METHODS {
        let mut names: Vec<String> = method.http.iter().map(|binding| format!("{} {}", binding.verb, binding.template)).collect();
        names.push(method.path.to_owned());
        for name in names {
            let route = named(&name);
            if method.caller == Caller::Peer {
                assert!(route.is_none(), "{name} is for services only");
                continue;
            }
            let route = route.unwrap_or_else(|| panic!("no route {name}"));
            let demanded = &route["typed_per_filter_config"]["envoy.filters.http.jwt_authn"]["requirement_name"];
            let expected = if method.caller == Caller::Public { Value::Null } else { json!("user") };
            assert_eq!(*demanded, expected, "{name}");
        }
    }
    // nothing else leads to a service
    let known = |name: &str| METHODS.iter().any(|m| m.path == name || m.http.iter().any(|b| name == format!("{} {}", b.verb, b.template)));
    for route in &routes {
        let (name, cluster) = (route["name"].as_str().unwrap_or_default(), route["route"]["cluster"].as_str().unwrap_or_default());
        assert!(cluster.is_empty() || cluster == "gateway_http" || known(name), "{name} leads to {cluster}");
    }
}

async fn have_an_admin_interface_for_insiders_only() {
    let dump = dump().await;
    let bootstrap = dump.iter().find(|config| config["bootstrap"].is_object()).expect("the bootstrap");
    assert_eq!(bootstrap["bootstrap"]["admin"]["address"]["socket_address"]["address"], "127.0.0.1");
    assert!(shop().metrics().await.contains("mercato_rpc_calls_total"), "the metrics are there inside");
    for path in ["/config_dump", "/quitquitquit", "/stats", "/metrics", "/readyz", "/livez", "/admin"] {
        let answer = reqwest::get(format!("{}{path}", shop().edge)).await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 404, "{path} is reachable from outside");
    }
}
