//! Envoy's own refusals in the form of ours, and its tracing.

use super::EdgeSettings;
use serde_json::{Value, json};

/// What Envoy refuses for want of a token and because of one gets a reason of its own.
const NO_TOKEN: (&str, u32, u32, &str) = ("EQ", 401, 16, "TOKEN_MISSING");

/// HTTP status, gRPC code and reason of what Envoy itself refuses; the last two catch what is left.
const REPLIES: &[(&str, u32, u32, &str)] = &[
    ("EQ", 401, 16, "TOKEN_INVALID"),
    ("EQ", 403, 7, "CALLER_NOT_ALLOWED"),
    ("EQ", 404, 5, "NOT_FOUND"),
    ("EQ", 413, 3, "REQUEST_INVALID"),
    ("EQ", 429, 8, "RATE_LIMITED"),
    ("EQ", 503, 14, "UNAVAILABLE"),
    ("EQ", 504, 4, "DEADLINE_EXCEEDED"),
    ("GE", 500, 13, "INTERNAL"),
    ("GE", 400, 3, "REQUEST_INVALID"),
];

/// What is wrong with a request that is no HTTP we take, in Envoy's words: `path_normalization_failed`, `http1.invalid_url`.
const DETAILS: &str = "%RESPONSE_CODE_DETAILS%";

/// The mappers, in the order Envoy asks them.
pub(super) fn mappers() -> Value {
    let (op, http, code, reason) = NO_TOKEN;
    let mut missing = mapper(op, http, code, reason);
    let no_header = json!({ "header_filter": { "header": { "name": "authorization", "present_match": true, "invert_match": true } } });
    if let Some(filters) = missing["filter"]["and_filter"]["filters"].as_array_mut() {
        filters.push(no_header);
    }
    [too_large_for_grpc(), missing]
        .into_iter()
        .chain(REPLIES.iter().map(|(op, http, code, reason)| mapper(op, *http, *code, reason)))
        .collect()
}

fn mapper(op: &str, http: u32, code: u32, reason: &str) -> Value {
    let metadata = if op == "GE" && http == 400 { json!({ "details": DETAILS }) } else { json!({}) };
    let status = json!({ "status_code_filter": { "comparison": { "op": op, "value": { "default_value": http, "runtime_key": "none" } } } });
    json!({
        "filter": { "and_filter": { "filters": [ not_grpc(), status ] } },
        "body_format_override": { "json_format": {
            "code": code,
            "message": "%LOCAL_REPLY_BODY%",
            "details": [ {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "mercato", "metadata": metadata
            } ]
        } }
    })
}

/// gRPC has no 413, and Envoy would say UNKNOWN: a request that is too large is the caller's fault, INVALID_ARGUMENT.
fn too_large_for_grpc() -> Value {
    let grpc = json!({ "header_filter": { "header": { "name": "content-type", "string_match": { "prefix": "application/grpc" } } } });
    let native = json!({ "header_filter": { "header": { "name": "x-envoy-original-path", "present_match": true, "invert_match": true } } });
    let status =
        json!({ "status_code_filter": { "comparison": { "op": "EQ", "value": { "default_value": 413, "runtime_key": "none" } } } });
    json!({
        "filter": { "and_filter": { "filters": [ grpc, native, status ] } },
        "headers_to_add": [ { "header": { "key": "grpc-status", "value": "3" }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" } ]
    })
}

/// A transcoded request looks like gRPC by the time the router refuses it; its original path gives it away.
fn not_grpc() -> Value {
    json!({ "or_filter": { "filters": [
        { "header_filter": { "header": {
            "name": "content-type", "string_match": { "prefix": "application/grpc" }, "invert_match": true, "treat_missing_header_as_empty": true
        } } },
        { "header_filter": { "header": { "name": "x-envoy-original-path", "present_match": true } } }
    ] } })
}

/// The tracing block of the connection manager, or nothing.
pub(super) fn tracing(settings: &EdgeSettings) -> String {
    if settings.otlp.is_none() {
        return String::new();
    }
    let tag = |name: &str, value: &str| json!({ "tag": name, "value": value });
    let block = json!({
        // a trace is begun by us alone; a client's own wish is not heard
        "client_sampling": { "value": 0 },
        "random_sampling": { "value": settings.trace_percent },
        "spawn_upstream_span": true,
        "operation": "%ROUTE_NAME%",
        "upstream_operation": "%REQ(:PATH)%",
        // what Envoy would tell of a client that is nobody's business: its address, its program, and what it asked behind the path
        "custom_tags": [
            tag("http.url", "%PATH(NQ:ORIG_OR_PATH)%"),
            { "tag": "user_agent", "literal": { "value": "-" } },
            { "tag": "peer.address", "literal": { "value": "-" } }
        ],
        "provider": { "name": "envoy.tracers.opentelemetry", "typed_config": {
            "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
            "service_name": "mercato-edge",
            "grpc_service": { "envoy_grpc": { "cluster_name": "otlp" }, "timeout": "1s" }
        } }
    });
    format!("          tracing: {block}")
}
