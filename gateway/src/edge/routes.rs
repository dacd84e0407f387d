//! One route a public method and binding, made from its policy.

use super::{EdgeSettings, transcoder};
use mercato_contracts::methods::{Caller, HttpBinding, Idempotency, METHODS, Method, Quota};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

/// How much later than the service Envoy gives up, so that the service's own, better answer arrives first. Milliseconds.
const PATIENCE_MS: u64 = 500;

/// All routes, the most particular first, and regular expressions last: Envoy tries one after the other. What none matches is 404.
pub(super) fn all(settings: &EdgeSettings, descriptor: &Path) -> Vec<Value> {
    let public = || METHODS.iter().filter(|m| m.caller != Caller::Peer);
    let mut rest: Vec<(&'static HttpBinding, &'static Method)> = public().flat_map(|m| m.http.iter().map(move |b| (b, m))).collect();
    // literal templates win over those with variables, custom verbs over plain ones
    rest.sort_by_key(|(b, _)| (b.template.matches('{').count(), !b.template.contains(':'), b.template, b.verb));
    let mut routes = vec![preflight(), page("/"), page("/docs"), page("/openapi.json"), page("/.well-known/jwks.json")];
    let mut verbs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (binding, _) in &rest {
        verbs.entry(binding.template).or_default().push(binding.verb);
    }
    let (variable, plain): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(b, _)| b.template.contains('{'));
    let rest_routes = |list: Vec<(&'static HttpBinding, &'static Method)>| {
        list.into_iter().map(|(binding, method)| rest_route(settings, descriptor, binding, method)).collect::<Vec<_>>()
    };
    routes.extend(rest_routes(plain));
    routes.extend(public().map(|method| grpc_route(settings, method)));
    routes.extend(rest_routes(variable));
    routes.extend(verbs.into_iter().map(|(template, verbs)| other_verbs(template, &verbs)));
    routes
}

/// Browsers ask before they call; the CORS filter answers, but only on a route that leads somewhere.
fn preflight() -> Value {
    json!({
        "name": "preflight",
        "match": { "prefix": "/", "headers": [ { "name": ":method", "string_match": { "exact": "OPTIONS" } } ] },
        "route": { "cluster": "gateway_http" }
    })
}

/// A path that is there answers 405 to a verb it does not know, and says which it does.
fn other_verbs(template: &str, verbs: &[&str]) -> Value {
    json!({
        "name": format!("other verbs {template}"),
        "match": place(template),
        "direct_response": { "status": 405, "body": { "inline_string": "this path has no such verb" } },
        "response_headers_to_add": [ { "header": { "key": "allow", "value": verbs.join(", ") } } ],
        "typed_per_filter_config": { "envoy.filters.http.grpc_json_transcoder": untranscoded() }
    })
}

fn untranscoded() -> Value {
    json!({ "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true })
}

fn page(path: &str) -> Value {
    // an instance that ends is noticed only by the next who asks it
    let again = json!({
        "retry_on": "connect-failure,refused-stream,reset",
        "num_retries": 2,
        "retry_back_off": { "base_interval": "0.025s", "max_interval": "0.25s" },
        "host_selection_retry_max_attempts": 3,
        "retry_host_predicate": [ { "name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" } } ]
    });
    json!({
        "name": format!("page {path}"),
        "match": { "path": path },
        "route": { "cluster": "gateway_http", "timeout": "5s", "retry_policy": again },
        "typed_per_filter_config": { "envoy.filters.http.grpc_json_transcoder": untranscoded() }
    })
}

fn rest_route(settings: &EdgeSettings, descriptor: &Path, binding: &HttpBinding, method: &Method) -> Value {
    let mut route = action(settings, method);
    let mut filters = json!({});
    if method.server_streaming {
        route["timeout"] = json!("0s");
        route["idle_timeout"] = json!("120s");
        route["max_stream_duration"] = json!({ "max_stream_duration": millis(method.deadline_ms + PATIENCE_MS) });
        filters["envoy.filters.http.grpc_json_transcoder"] = transcoder(descriptor, true);
    } else {
        route["timeout"] = json!(millis(method.deadline_ms + PATIENCE_MS));
    }
    if let Some(requirement) = token(method) {
        filters["envoy.filters.http.jwt_authn"] = requirement;
    }
    let mut matching = place(binding.template);
    matching["headers"] = json!([ { "name": ":method", "string_match": { "exact": binding.verb } } ]);
    json!({
        "name": format!("{} {}", binding.verb, binding.template),
        "match": matching,
        "route": route,
        "request_headers_to_add": [ {
            "header": { "key": "grpc-timeout", "value": format!("{}m", method.deadline_ms) },
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"
        } ],
        "typed_per_filter_config": filters
    })
}

/// Native gRPC and gRPC-Web: the exact method, so that nothing without a policy is ever reachable.
fn grpc_route(settings: &EdgeSettings, method: &Method) -> Value {
    let mut route = action(settings, method);
    let most = millis(method.deadline_ms + PATIENCE_MS);
    route["timeout"] = json!("0s");
    route["max_stream_duration"] = json!({ "grpc_timeout_header_max": most, "max_stream_duration": most });
    let mut filters = json!({});
    if let Some(requirement) = token(method) {
        filters["envoy.filters.http.jwt_authn"] = requirement;
    }
    json!({ "name": method.path, "match": { "path": method.path }, "route": route, "typed_per_filter_config": filters })
}

fn action(settings: &EdgeSettings, method: &Method) -> Value {
    let mut route = json!({ "cluster": settings.upstream.cluster(method.service) });
    if method.idempotency == Idempotency::ReadOnly && !method.server_streaming {
        route["retry_policy"] = json!({
            "retry_on": "connect-failure,refused-stream,reset-before-request,unavailable",
            "num_retries": 1,
            "retry_back_off": { "base_interval": "0.025s", "max_interval": "0.25s" }
        });
    }
    if method.idempotency != Idempotency::ReadOnly {
        // a connection that was refused, or a stream that was, never reached a service
        route["retry_policy"] = json!({
            "retry_on": "connect-failure,refused-stream",
            "num_retries": 2,
            "retry_back_off": { "base_interval": "0.1s", "max_interval": "1s" }
        });
        // Messages of providers come from few addresses, as many as there are payments. Counting them by address would only delay what
        // customers wait for.
        if let Some(actions) = limit(method.quota) {
            route["rate_limits"] = json!([{ "actions": actions }]);
        }
    }
    route
}

/// Whose bucket a change takes a token from; the classes are those of the rate limit service.
fn limit(quota: Quota) -> Option<Value> {
    let by_address =
        |class: &str| json!([ { "generic_key": { "descriptor_key": "class", "descriptor_value": class } }, { "remote_address": {} } ]);
    match quota {
        Quota::Signed => None,
        Quota::SignIn => Some(by_address("auth")),
        Quota::Address => Some(by_address("anonymous")),
        Quota::Subject => Some(json!([
            { "generic_key": { "descriptor_key": "class", "descriptor_value": "write" } },
            { "metadata": {
                "descriptor_key": "subject",
                "default_value": "unknown",
                "metadata_key": { "key": "envoy.filters.http.jwt_authn", "path": [ { "key": "claims" }, { "key": "sub" } ] }
            } }
        ])),
    }
}

/// A method that is not public needs a token; a public one only checks the token it is given, which is the host's default.
fn token(method: &Method) -> Option<Value> {
    (method.caller != Caller::Public).then(
        || json!({ "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig", "requirement_name": "user" }),
    )
}

/// Where a template matches: plain text is compared, which costs Envoy a fraction of a regular expression.
fn place(template: &str) -> Value {
    if template.contains('{') { json!({ "safe_regex": { "regex": pattern(template) } }) } else { json!({ "path": template }) }
}

/// `/api/orders/{order_id}:cancel` as a regular expression; a variable is one segment.
fn pattern(template: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(&escape(before));
        out.push_str("[^/:]+");
        rest = after.split_once('}').map_or("", |(_, tail)| tail);
    }
    out + &escape(rest)
}

fn escape(literal: &str) -> String {
    literal.replace('.', "[.]")
}

fn millis(ms: u64) -> String {
    format!("{}.{:03}s", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_becomes_a_pattern_of_whole_segments() {
        assert_eq!(pattern("/api/orders/{order_id}:cancel"), "/api/orders/[^/:]+:cancel");
        assert_eq!(place("/api/products"), json!({ "path": "/api/products" }));
    }

    #[test]
    fn durations_keep_their_milliseconds() {
        assert_eq!(millis(1500), "1.500s");
        assert_eq!(millis(20), "0.020s");
    }
}
