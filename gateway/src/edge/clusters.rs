//! The upstreams, each with its own defences: one failing service must not shed the others' traffic.

use super::{EdgeSettings, Upstream};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// All clusters.
pub(super) fn all(settings: &EdgeSettings) -> Vec<Value> {
    let mut clusters: Vec<Value> = match &settings.upstream {
        Upstream::Together(address) => vec![service("mercato", address, settings.max_connections)],
        Upstream::Apart { roles, .. } => roles.iter().map(|(role, address)| service(role, address, settings.max_connections)).collect(),
    };
    clusters.push(json!({
        "name": "gateway_http", "type": "STRICT_DNS", "connect_timeout": "0.5s", "load_assignment": endpoint("gateway_http", &settings.gateway_http)
    }));
    if settings.stats.is_some() {
        clusters.push(json!({
            "name": "admin", "type": "STATIC", "connect_timeout": "0.5s", "load_assignment": endpoint("admin", &settings.admin.to_string())
        }));
    }
    if let Some(collector) = &settings.otlp {
        clusters.push(json!({
            "name": "otlp", "type": "STRICT_DNS", "connect_timeout": "0.5s",
            "typed_extension_protocol_options": http2(&json!([])), "load_assignment": endpoint("otlp", collector)
        }));
    }
    clusters
}

/// What `/healthz` demands: half of the instances of every service.
pub(super) fn healthy(upstream: &Upstream) -> Value {
    let names: Vec<&str> = match upstream {
        Upstream::Together(_) => vec!["mercato"],
        Upstream::Apart { roles, .. } => roles.iter().map(|(role, _)| role.as_str()).collect(),
    };
    names.into_iter().map(|name| (name.to_owned(), json!({ "value": 50 }))).collect::<serde_json::Map<_, _>>().into()
}

fn service(name: &str, address: &str, max_requests: u32) -> Value {
    json!({
        "name": name,
        "type": "STRICT_DNS",
        "connect_timeout": "0.5s",
        "lb_policy": "LEAST_REQUEST",
        "per_connection_buffer_limit_bytes": 1_048_576,
        "typed_extension_protocol_options": http2(&admission()),
        "health_checks": [ {
            "timeout": "1s", "interval": "2s", "no_traffic_interval": "2s", "unhealthy_threshold": 2, "healthy_threshold": 1,
            "initial_jitter": "0.1s", "unhealthy_interval": "0.5s", "grpc_health_check": {}
        } ],
        "outlier_detection": {
            "consecutive_gateway_failure": 5, "consecutive_5xx": 20, "interval": "5s", "base_ejection_time": "5s", "max_ejection_percent": 50
        },
        "circuit_breakers": { "thresholds": [ {
            "priority": "DEFAULT", "max_connections": 256, "max_pending_requests": 1024, "max_requests": max_requests, "track_remaining": true,
            "retry_budget": { "budget_percent": { "value": 20 }, "min_retry_concurrency": 3 }
        } ] },
        "load_assignment": endpoint(name, address)
    })
}

/// Where a cluster is: `host:port`, several instances divided by commas.
fn endpoint(cluster: &str, addresses: &str) -> Value {
    let one = |address: &str| {
        let (host, port) = address.trim().rsplit_once(':').unwrap_or((address, "80"));
        let port: u16 = port.parse().unwrap_or(80);
        json!({ "endpoint": { "address": { "socket_address": { "address": host, "port_value": port } } } })
    };
    let endpoints: Vec<Value> = addresses.split(',').map(one).collect();
    json!({ "cluster_name": cluster, "endpoints": [ { "lb_endpoints": endpoints } ] })
}

fn http2(filters: &Value) -> Value {
    let mut options = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": { "http2_protocol_options": {
            "max_concurrent_streams": 1000,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1_048_576,
            "connection_keepalive": { "interval": "30s", "timeout": "5s" }
        } }
    });
    if filters.as_array().is_some_and(|f| !f.is_empty()) {
        options["http_filters"] = filters.clone();
    }
    json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options })
}

/// Refuses a part of the traffic while the service fails; what a service says no to for a business reason is a success here.
fn admission() -> Value {
    json!([
        { "name": "envoy.filters.http.admission_control", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.admission_control.v3.AdmissionControl",
            "enabled": { "default_value": true, "runtime_key": "admission.enabled" },
            "sampling_window": "10s",
            "sr_threshold": { "default_value": { "value": 60 }, "runtime_key": "admission.sr" },
            "aggression": { "default_value": 1.5, "runtime_key": "admission.aggression" },
            "rps_threshold": { "default_value": 20, "runtime_key": "admission.rps" },
            "max_rejection_probability": { "default_value": { "value": 80 }, "runtime_key": "admission.max" },
            "success_criteria": {
                "http_criteria": { "http_success_status": [ { "start": 100, "end": 500 } ] },
                "grpc_criteria": { "grpc_success_status": [ 0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 16 ] }
            }
        } },
        { "name": "envoy.filters.http.upstream_codec", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec" } }
    ])
}

/// The listeners for the inside: the one of all roles, and the one of metrics.
pub(super) fn internal_listeners(settings: &EdgeSettings) -> String {
    let listeners = [internal_listener(&settings.upstream), settings.stats.map(stats_listener)];
    listeners.into_iter().flatten().map(|listener| format!("  - {listener}")).collect::<Vec<_>>().join("\n")
}

/// With the roles apart, one more listener offers them all under one address, for peers' tools and reflection. It adds nothing and takes
/// nothing away: the services demand the same credentials as ever.
fn internal_listener(upstream: &Upstream) -> Option<Value> {
    let Upstream::Apart { roles, internal } = upstream else { return None };
    let to = |prefix: String, cluster: &str| {
        json!({
            "match": { "prefix": prefix },
            "route": { "cluster": cluster, "timeout": "0s", "max_stream_duration": { "max_stream_duration": "3600s" } }
        })
    };
    let mut routes: Vec<Value> =
        roles.iter().filter(|(role, _)| role != "gateway").map(|(role, _)| to(format!("/mercato.{role}."), role)).collect();
    routes.push(to("/".into(), "gateway"));
    let manager = json!({ "codec_type": "HTTP2", "stream_idle_timeout": "0s" });
    Some(listener("internal", *internal, manager, &json!(routes)))
}

/// Two pages of the admin interface, to be read from other hosts: what Prometheus scrapes and whether Envoy is ready. The others would let
/// anybody stop it. Neither memory nor the number of connections shuts this door: an Envoy under load is no broken one, and just then its
/// figures are wanted.
fn stats_listener(address: SocketAddr) -> Value {
    let page = |path: &str| {
        json!({
            "match": { "path": path, "headers": [ { "name": ":method", "string_match": { "exact": "GET" } } ] },
            "route": { "cluster": "admin", "timeout": "5s" }
        })
    };
    let mut stats = listener("stats", address, json!({ "codec_type": "AUTO" }), &json!([page("/ready"), page("/stats/prometheus")]));
    stats["bypass_overload_manager"] = json!(true);
    stats["ignore_global_conn_limit"] = json!(true);
    stats
}

fn listener(name: &str, address: SocketAddr, mut manager: Value, routes: &Value) -> Value {
    manager["@type"] = json!("type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager");
    manager["stat_prefix"] = json!(name);
    manager["route_config"] = json!({ "virtual_hosts": [ { "name": name, "domains": [ "*" ], "routes": routes } ] });
    manager["http_filters"] = json!([ { "name": "envoy.filters.http.router",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } } ]);
    json!({
        "name": name,
        "address": { "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } },
        "filter_chains": [ { "filters": [ { "name": "envoy.filters.network.http_connection_manager", "typed_config": manager } ] } ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_hosts_read_two_pages_of_the_admin_interface() {
        let listener = stats_listener(SocketAddr::from(([0, 0, 0, 0], 9902)));
        let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
        let hosts = manager["route_config"]["virtual_hosts"].as_array().expect("hosts");
        let routes = hosts[0]["routes"].as_array().expect("routes");
        let only = |route: &Value| (route["match"]["path"].clone(), route["match"]["headers"][0]["string_match"]["exact"].clone());
        let pages: Vec<_> = routes.iter().map(only).collect();
        assert_eq!(hosts.len(), 1);
        assert_eq!(pages, [(json!("/ready"), json!("GET")), (json!("/stats/prometheus"), json!("GET"))]);
    }
}
