//! The proto rules of proto/README.md, each a test.

use crate::{
    generate::{
        descriptors::OURS,
        policy::{self, Caller, Idempotency, Policy},
        rules::read::FieldRules,
    },
    none, pool,
};
use prost_reflect::{DescriptorPool, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Packages whose types every package may use.
const SHARED: [&str; 2] = ["mercato.type.v1", "mercato.options.v1"];

/// The only fields that may be floating point, and why.
const FLOATS: [(&str, &str); 2] = [
    ("mercato.ordering.v1.PlaceOrderRequest.total_amount", "shop fronts send it; compared with our total, never computed with"),
    ("mercato.ordering.v1.PlaceOrderItem.price", "shop fronts send it; compared with our price, never computed with"),
];

/// Types of others in a request that carry no rules of ours, and what bounds them instead.
const FOREIGN: [(&str, &str); 3] = [
    ("google.protobuf.FieldMask", "an unknown path is refused by the handler; the size by the server's message limit"),
    ("google.protobuf.Timestamp", "two numbers"),
    ("google.api.HttpBody", "the server's message limit; the handler states its own"),
];

fn ours(pool: &DescriptorPool) -> Vec<FileDescriptor> {
    pool.files().filter(|f| f.package_name().starts_with(OURS)).collect()
}

fn policies(pool: &DescriptorPool) -> Vec<Policy> {
    policy::all(pool).expect("the build read them")
}

/// A message and all messages in it.
fn reach(message: &MessageDescriptor, found: &mut BTreeMap<String, MessageDescriptor>) {
    if found.insert(message.full_name().to_owned(), message.clone()).is_none() {
        for inner in message.fields().filter_map(|f| f.kind().as_message().cloned()) {
            reach(&inner, found);
        }
    }
}

fn requests(pool: &DescriptorPool) -> BTreeMap<String, MessageDescriptor> {
    let mut found = BTreeMap::new();
    policies(pool).iter().for_each(|p| reach(&p.method.input(), &mut found));
    found
}

#[test]
fn a_file_lies_where_its_package_says() {
    let mut problems = Vec::new();
    for file in ours(&pool()) {
        let folder = file.name().rsplit_once('/').map_or("", |(folder, _)| folder);
        let package = folder.replace('/', ".");
        let parts: Vec<&str> = package.split('.').collect();
        let versioned = parts.len() == 3 && parts[2].strip_prefix('v').is_some_and(|v| v.parse::<u32>().is_ok());
        if package != file.package_name() || !versioned {
            problems.push(format!("{}: package {} is not mercato.<service>.v<n> of its folder", file.name(), file.package_name()));
        }
        if file.syntax() != prost_reflect::Syntax::Proto3 {
            problems.push(format!("{}: not proto3", file.name()));
        }
    }
    none(problems);
}

#[test]
fn no_service_uses_the_messages_of_another() {
    let mut problems = Vec::new();
    for file in ours(&pool()) {
        for import in file.dependencies().filter(|i| i.package_name().starts_with(OURS)) {
            if import.package_name() != file.package_name() && !SHARED.contains(&import.package_name()) {
                problems.push(format!("{}: imports {} of another service", file.name(), import.name()));
            }
        }
    }
    none(problems);
}

#[test]
fn every_element_has_a_comment() {
    let mut problems = Vec::new();
    for file in ours(&pool()) {
        let proto = file.file_descriptor_proto();
        let locations = proto.source_code_info.iter().flat_map(|info| &info.location);
        let commented: BTreeSet<&[i32]> =
            locations.filter(|l| l.leading_comments.as_ref().is_some_and(|c| !c.trim().is_empty())).map(|l| l.path.as_slice()).collect();
        let mut need = |name: &str, path: &[i32]| {
            if !commented.contains(path) {
                problems.push(format!("{}: {name} has no comment", file.name()));
            }
        };
        // Field 12 of a file is its syntax, the first thing in it.
        need("the file", &[12]);
        for message in file.parent_pool().all_messages().filter(|m| m.parent_file() == file && !m.is_map_entry()) {
            need(message.full_name(), message.path());
            message.fields().for_each(|f| need(f.full_name(), f.path()));
            message.oneofs().filter(|o| !o.is_synthetic()).for_each(|o| need(o.full_name(), o.path()));
        }
        for kind in file.parent_pool().all_enums().filter(|e| e.parent_file() == file) {
            need(kind.full_name(), kind.path());
            kind.values().for_each(|v| need(v.full_name(), v.path()));
        }
        for service in file.services() {
            need(service.full_name(), service.path());
            service.methods().for_each(|m| need(m.full_name(), m.path()));
        }
        file.extensions().for_each(|e| need(e.full_name(), e.path()));
    }
    none(problems);
}

#[test]
fn each_method_has_a_request_of_its_own_name() {
    let pool = pool();
    let (mut problems, mut seen) = (Vec::new(), BTreeSet::new());
    for policy in policies(&pool) {
        let (method, input) = (&policy.method, policy.method.input());
        if input.name() != format!("{}Request", method.name()) || input.package_name() != method.parent_file().package_name() {
            problems.push(format!("{}: takes {}, not {}Request of its package", method.full_name(), input.full_name(), method.name()));
        }
        if !seen.insert(input.full_name().to_owned()) {
            problems.push(format!("{}: another method takes {}, too", method.full_name(), input.full_name()));
        }
    }
    none(problems);
}

#[test]
fn methods_for_services_live_apart_and_all_others_have_a_route() {
    let pool = pool();
    let mut problems = Vec::new();
    let mut kinds: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    for policy in policies(&pool) {
        let peer = policy.caller == Caller::Peer;
        kinds.entry(policy.method.parent_service().full_name().to_owned()).or_default().insert(peer);
        if !peer && policy.http.is_empty() {
            problems.push(format!("{}: open to callers outside, but without google.api.http", policy.method.full_name()));
        }
    }
    problems.extend(
        kinds.iter().filter(|(_, k)| k.len() > 1).map(|(s, _)| format!("{s}: mixes methods for services with methods for callers outside")),
    );
    none(problems);
}

#[test]
fn no_two_routes_can_match_one_request() {
    let pool = pool();
    let mut routes = Vec::new();
    for policy in policies(&pool) {
        for binding in &policy.http {
            routes.push((binding.verb, segments(&binding.template), format!("{} {}", binding.verb, binding.template)));
        }
    }
    let mut problems = Vec::new();
    for (i, (verb, path, told)) in routes.iter().enumerate() {
        for (other_verb, other_path, other) in &routes[..i] {
            if verb == other_verb && overlap(path, other_path) {
                problems.push(format!("{told} and {other}"));
            }
        }
    }
    none(problems);
}

/// A template as segments, `*` for a variable; the verb after a colon is a segment of its own.
fn segments(template: &str) -> Vec<String> {
    let (path, verb) = match template.rsplit_once(':') {
        Some((path, verb)) if !verb.contains(['/', '}']) => (path, verb),
        _ => (template, ""),
    };
    let mut parts: Vec<String> =
        path.trim_start_matches('/').split('/').map(|s| if s.starts_with('{') { "*".into() } else { s.into() }).collect();
    parts.push(format!(":{verb}"));
    parts
}

fn overlap(a: &[String], b: &[String]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || ((a == "*" || b == "*") && !a.starts_with(':') && !b.starts_with(':')))
}

#[test]
fn the_overlap_check_sees_variables_and_verbs() {
    let overlaps = |a: &str, b: &str| overlap(&segments(a), &segments(b));
    assert!(overlaps("/api/orders/{order_id}", "/api/orders/stuck"));
    assert!(overlaps("/api/orders/{order_id}:cancel", "/api/orders/{id}:cancel"));
    assert!(!overlaps("/api/orders/{order_id}", "/api/orders/{order_id}:cancel"));
    assert!(!overlaps("/api/orders/{order_id}", "/api/orders/{order_id}/timeline"));
}

#[test]
fn verbs_statuses_and_idempotency_agree() {
    let pool = pool();
    let mut problems = Vec::new();
    for policy in policies(&pool) {
        let name = policy.method.full_name();
        let reads = policy.idempotency == Idempotency::ReadOnly;
        for binding in &policy.http {
            if (binding.verb == "GET") != reads {
                problems.push(format!(
                    "{name}: {} on a method that {}",
                    binding.verb,
                    if reads { "only reads" } else { "changes something" }
                ));
            }
            if matches!(binding.verb, "GET" | "DELETE") != binding.body.is_empty() {
                problems.push(format!("{name}: GET and DELETE have no body, all others have one"));
            }
        }
        if policy.idempotency == Idempotency::Natural && !["Natural: ", "Repeating it "].iter().any(|w| comment(&policy).contains(w)) {
            problems.push(format!("{name}: the comment must say why repeating it is harmless, as `Natural: ...` or `Repeating it ...`"));
        }
        if policy.http_success == 204 && policy.method.output().full_name() != "google.protobuf.Empty" {
            problems.push(format!("{name}: 204 throws its answer away"));
        }
        if !policy.method.is_server_streaming() && policy.deadline_ms > 30_000 {
            problems.push(format!("{name}: a deadline of {} ms is not for a single answer", policy.deadline_ms));
        }
    }
    none(problems);
}

fn comment(policy: &Policy) -> String {
    let file = policy.method.parent_file();
    let info = file.file_descriptor_proto().source_code_info.as_ref().expect("the full set has comments");
    let text = info.location.iter().find(|l| l.path == policy.method.path()).and_then(|l| l.leading_comments.clone());
    text.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ") + " "
}

#[test]
fn an_enum_starts_with_its_unspecified_value() {
    let mut problems = Vec::new();
    for kind in pool().all_enums().filter(|e| e.package_name().starts_with(OURS)) {
        if !kind.get_value(0).is_some_and(|v| v.name().ends_with("_UNSPECIFIED")) {
            problems.push(format!("{}: 0 is not ..._UNSPECIFIED", kind.full_name()));
        }
    }
    none(problems);
}

#[test]
fn no_field_is_floating_point() {
    let mut problems = Vec::new();
    for message in pool().all_messages().filter(|m| m.package_name().starts_with(OURS)) {
        for field in message.fields().filter(|f| matches!(f.kind(), Kind::Double | Kind::Float)) {
            if !FLOATS.iter().any(|(name, _)| *name == field.full_name()) {
                problems.push(format!("{}: floating point is never exact", field.full_name()));
            }
        }
    }
    none(problems);
}

#[test]
fn a_time_is_named_at() {
    let mut problems = Vec::new();
    for message in pool().all_messages().filter(|m| m.package_name().starts_with(OURS)) {
        for field in message.fields() {
            let time = matches!(field.kind(), Kind::Message(m) if m.full_name() == "google.protobuf.Timestamp");
            if time && field.name() != "at" && !field.name().ends_with("_at") {
                problems.push(format!("{}: a time is named `at` or `..._at`", field.full_name()));
            }
        }
    }
    none(problems);
}

/// Envoy up to 1.40 can crash on a map in an answer, and cannot print an Any whose type it does not know.
#[test]
fn no_public_answer_holds_a_map_or_anything() {
    let pool = pool();
    let mut answers = BTreeMap::new();
    policies(&pool).iter().filter(|p| !p.http.is_empty()).for_each(|p| reach(&p.method.output(), &mut answers));
    let mut problems = Vec::new();
    for message in answers.values().filter(|m| m.full_name() != "google.api.HttpBody") {
        for field in message.fields() {
            let open = ["google.protobuf.Any", "google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue"];
            if field.is_map() || matches!(field.kind(), Kind::Message(m) if open.contains(&m.full_name())) {
                problems.push(format!("{}: use a list of mercato.type.v1.Attribute", field.full_name()));
            }
        }
    }
    none(problems);
}

/// Over REST a stream that breaks looks like one that ended.
#[test]
fn a_public_stream_says_when_it_ends() {
    let pool = pool();
    let mut problems = Vec::new();
    for policy in policies(&pool).iter().filter(|p| p.method.is_server_streaming() && !p.http.is_empty()) {
        let output = policy.method.output();
        if output.full_name() != "google.api.HttpBody" && !output.oneofs().any(|o| o.fields().any(|f| f.name() == "end")) {
            problems.push(format!("{}: {} has no oneof with a member `end`", policy.method.full_name(), output.full_name()));
        }
    }
    none(problems);
}

#[test]
fn everything_in_a_request_has_a_bound() {
    none(boundless(&pool()));
}

fn boundless(pool: &DescriptorPool) -> Vec<String> {
    let mut problems = Vec::new();
    for message in requests(pool).values().filter(|m| !m.is_map_entry()) {
        let foreign = FOREIGN.iter().any(|(name, _)| *name == message.full_name());
        if !message.package_name().starts_with(OURS) {
            if !foreign && message.full_name() != "google.protobuf.Any" {
                problems.push(format!("{}: nothing bounds this type in a request", message.full_name()));
            }
            continue;
        }
        for field in message.fields() {
            let rules = FieldRules::of(&field).expect("the build read them");
            problems.extend(unbounded(&field, rules.any()).map(|why| format!("{}: {why}", field.full_name())));
        }
    }
    problems
}

#[test]
fn the_bound_check_sees_every_kind_of_field() {
    let file = "service S { rpc Do(DoRequest) returns (google.protobuf.Empty) {
        option (mercato.options.v1.method) = {peer: true, idempotency: IDEMPOTENCY_READ_ONLY}; } }
        enum E { E_UNSPECIFIED = 0; } message Inner { string deep = 1; }
        message DoRequest {
          string a = 1 [(buf.validate.field).string.min_len = 1]; bytes b = 2; E c = 3; double d = 4;
          repeated string e = 5 [(buf.validate.field).repeated.max_items = 3];
          repeated string f = 6 [(buf.validate.field).repeated.items.string.max_len = 3];
          map<string, string> g = 7; Inner h = 8; int32 fine = 9; string good = 10 [(buf.validate.field).string.uuid = true];
        }";
    let found = boundless(&crate::compile(file).expect("a contract"));
    let fields: Vec<&str> = found.iter().filter_map(|f| f.strip_prefix("mercato.t.v1.")?.split(':').next()).collect();
    let all = ["a", "b", "c", "d", "e", "f", "g"].map(|f| format!("DoRequest.{f}"));
    assert_eq!(fields, [&all[..], &["Inner.deep".to_string()]].concat());
}

/// Why a field has no bound, if it has none.
fn unbounded(field: &FieldDescriptor, rules: &[(String, Value)]) -> Option<String> {
    let has = |names: &[&str]| rules.iter().any(|(rule, _)| names.contains(&rule.as_str()));
    let part = |name: &str| {
        let inner = rules.iter().find(|(rule, _)| rule == name).and_then(|(_, v)| v.as_message());
        FieldRules::read(field.full_name(), inner).expect("the build read them").any().to_vec()
    };
    let of = |kind: &Kind, rules: &[(String, Value)]| value_unbounded(kind, rules);
    if field.is_map() {
        let kind = field.kind();
        let entry = kind.as_message()?;
        let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let pairs = (!has(&["max_pairs"])).then(|| "no max_pairs".to_string());
        return pairs.or_else(|| of(&key, &part("keys"))).or_else(|| of(&value, &part("values")));
    }
    if field.is_list() {
        let items = (!has(&["max_items"])).then(|| "no max_items".to_string());
        return items.or_else(|| of(&field.kind(), &part("items")));
    }
    of(&field.kind(), rules)
}

fn value_unbounded(kind: &Kind, rules: &[(String, Value)]) -> Option<String> {
    let has = |names: &[&str]| rules.iter().any(|(rule, _)| names.contains(&rule.as_str()));
    let why = match kind {
        Kind::String if !has(&["max_len", "len", "max_bytes", "in", "const", "uuid"]) => "no max_len",
        Kind::Bytes if !has(&["max_len", "len"]) => "no max_len",
        Kind::Enum(_) if !has(&["defined_only", "in", "const"]) => "not defined_only",
        Kind::Double | Kind::Float if !has(&["finite", "lt", "lte", "in"]) => "may be NaN: no range",
        _ => return None,
    };
    Some(why.to_string())
}
