//! Garbage over REST: what no gRPC client can send. JSON of wrong types in every field of every body, and strange paths and queries.

use super::{
    door, fresh,
    inputs::{World, public, still_served, token_for},
    rest,
    shop::shop,
    state,
};
use futures_util::StreamExt as _;
use mercato_contracts::methods::{HttpBinding, Idempotency, Method};
use reqwest::Client;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

one_at_a_time!(in_any_field_is_a_clear_4xx, in_paths_and_queries_is_a_clear_4xx, in_the_verb_is_a_405);

/// A request with something wrong.
struct Case {
    method: &'static Method,
    verb: &'static str,
    path: String,
    body: Option<Vec<u8>>,
    what: String,
    /// The field that should be named when it is refused for its value.
    field: String,
    /// Whether it must be refused.
    must: bool,
}

/// JSON that does not fit the field it replaces, and whether it must be refused: the transcoder reads a single value as a list of one, lists
/// in lists as one list, and some texts as truth values.
fn wrong(good: &Value, in_list: bool) -> Vec<(&'static str, &'static str, bool)> {
    let mut all = vec![
        ("a list in a list", "[[[]]]", !in_list && !good.is_array()),
        ("an object without end", "{\"a\":{\"a\":{\"a\":{}}}}", !good.is_object()),
        ("no JSON", "nonsense", true),
        ("half a string", "\"abc", true),
        ("bytes that are no UTF-8", "\"@FF@\"", true),
        ("a zero byte", "\"\\u0000\"", true),
    ];
    match good {
        Value::String(_) => {
            all.extend([("a huge text", "\"@HUGE@\"", true), ("half a surrogate", "\"\\ud800\"", true), ("null", "null", false)])
        }
        Value::Number(_) => {
            all.extend([
                ("a text", "\"many\"", true),
                ("a number too large", "1e400", true),
                ("below zero", "-1", true),
                ("more than a double holds", "123456789012345678901234567890", true),
                ("not a number", "NaN", true),
            ]);
        }
        Value::Bool(_) => all.extend([("a text", "\"yes\"", false), ("a number", "2", false)]),
        Value::Array(_) => all.extend([("a text", "\"abc\"", false), ("a number", "1", false), ("ten thousand", "[@MANY@]", true)]),
        Value::Object(_) => all.extend([("a text", "\"abc\"", true), ("a list", "[1]", true)]),
        Value::Null => {}
    }
    all
}

/// The text of `good` with this in the place of one field.
fn with_raw(good: &Value, pointer: &str, raw: &str) -> Vec<u8> {
    let mut body = good.clone();
    *body.pointer_mut(pointer).expect("a field that is there") = json!("@HERE@");
    let text = body.to_string().replace("\"@HERE@\"", raw);
    let text = text.replace("@HUGE@", &"x".repeat(120_000)).replace("@MANY@", &vec!["1"; 10_000].join(","));
    let mut bytes = text.into_bytes();
    while let Some(place) = bytes.windows(4).position(|four| four == b"@FF@") {
        bytes.splice(place..place + 4, [0xff, 0xfe]);
    }
    bytes
}

/// Every place in a body, as JSON pointers.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().take(1).map(|item| ("0".to_owned(), item)).collect(),
        _ => vec![],
    };
    for (name, value) in inner {
        let place = format!("{at}/{name}");
        found.push(place.clone());
        pointers(value, &place, found);
    }
}

/// The path with its variables filled in, and the body, of a good request.
fn split(binding: &HttpBinding, good: &Value) -> (String, Value) {
    let mut fields = good.as_object().expect("an object").clone();
    let path = rest::fill(binding.template, &mut fields);
    let body = if binding.body == "*" { Value::Object(fields) } else { fields.remove(&rest::camel(binding.body)).unwrap_or_default() };
    (path, body)
}

fn bodies(world: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    for (method, binding) in public().flat_map(|method| method.http.iter().map(move |binding| (method, binding))) {
        // the body of a webhook is whatever a provider writes, and judged by its signature
        if binding.body.is_empty() || method.name == "ReceiveWebhook" {
            continue;
        }
        let (path, good) = split(binding, &world.good(method.name));
        let mut places = Vec::new();
        pointers(&good, "", &mut places);
        let mut push = |what: String, field: &str, must: bool, body: Vec<u8>| {
            let (path, field) = (path.clone(), field.to_owned());
            cases.push(Case { method, verb: binding.verb, path, body: Some(body), what, field, must });
        };
        for (what, body) in
            [("no body", &b""[..]), ("a list", b"[]"), ("a text", b"\"a\""), ("two values", b"{}{}"), ("noise", b"\xff\0\xfe")]
        {
            // a body left out is a message without fields, and some need none
            push(what.into(), "", what != "no body", body.to_vec());
        }
        push("very deep".into(), "", true, format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000)).into_bytes());
        for place in places {
            let field = place.rsplit('/').find(|part| part.parse::<u32>().is_err()).unwrap_or_default().to_owned();
            let in_list = place.ends_with("/0");
            for (what, raw, must) in wrong(good.pointer(&place).expect("a field that is there"), in_list) {
                push(format!("{place} {what}"), &field, must, with_raw(&good, &place, raw));
            }
        }
    }
    cases
}

/// Sends it, and tells what is wrong with the answer.
async fn fault(client: &Client, world: &World, case: Case) -> Option<String> {
    let verb = reqwest::Method::from_bytes(case.verb.as_bytes()).expect("a verb");
    let mut request = client.request(verb, format!("{}{}", shop().edge, case.path));
    if let Some(token) = token_for(case.method, world) {
        request = request.bearer_auth(token);
    }
    if case.method.idempotency == Idempotency::Key {
        request = request.header("idempotency-key", fresh("json-"));
    }
    if let Some(body) = case.body {
        request = request.header("content-type", "application/json").body(body);
    }
    let told = |why: String| Some(format!("{} {} {}: {why}", case.method.name, case.path.chars().take(80).collect::<String>(), case.what));
    let (status, bytes) = match rest::reply(request).await {
        Ok(answer) => (answer.status, answer.bytes),
        Err(error) => return told(format!("{error:?}")),
    };
    if (200..300).contains(&status) {
        return if case.must { told("was accepted".into()) } else { None };
    }
    let Ok(body) = serde_json::from_slice::<Value>(&bytes) else { return told(format!("{status} without JSON: {bytes:?}")) };
    if !(400..500).contains(&status) || body["code"].as_i64().is_none() {
        return told(format!("{status} {body}"));
    }
    let refused = rest::refused(status, &bytes);
    if let Some(word) = super::garbage::inside(&body.to_string()) {
        return told(format!("`{word}` in {body}"));
    }
    // what is no JSON for this message stops the transcoder, which says where, but not always with the field's name
    let stopped = refused.fields.is_empty() && (!refused.message.is_empty() || refused.metadata.contains_key("details"));
    let named = refused.fields.iter().any(|field| field.contains(&case.field)) || stopped;
    if status == 400 && refused.reason == "REQUEST_INVALID" && !named {
        return told(format!("the field is not named: {body}"));
    }
    if refused.reason.is_empty() { told(format!("no reason: {body}")) } else { None }
}

async fn faults(world: &World, cases: Vec<Case>) -> Vec<String> {
    let client = Client::new();
    let asked = cases.into_iter().map(|case| fault(&client, world, case));
    futures_util::stream::iter(asked).buffer_unordered(8).filter_map(async |fault| fault).collect().await
}

async fn in_any_field_is_a_clear_4xx() {
    let world = World::new(&door::rest()).await;
    let before = state::at_rest().await;
    let (refused, left): (Vec<Case>, Vec<Case>) = bodies(&world).into_iter().partition(|case| case.must);
    let many = refused.len();
    assert!(many > 400, "only {many} bad bodies");
    let found = faults(&world, refused).await;
    assert!(found.is_empty(), "{} of {many}:\n{}", found.len(), found.join("\n"));
    println!("{many} bodies were refused");
    state::unchanged(&before, &state::at_rest().await);
    let found = faults(&world, left).await;
    assert!(found.is_empty(), "{} faults:\n{}", found.len(), found.join("\n"));
}

/// Strange segments of a path and values of a query.
const STRANGE: [&str; 14] = [
    "%00",
    "%ff%fe",
    "%c0%af",
    "%2e%2e",
    "%0d%0aX-A:b",
    "%25%30%30",
    "-1",
    "99999999999999999999",
    "1e400",
    "null",
    "'%20or%201=1",
    "%F0%9F%91%A9",
    "%ED%A0%80",
    "{a}",
];

async fn in_paths_and_queries_is_a_clear_4xx() {
    let world = World::new(&door::rest()).await;
    let before = state::at_rest().await;
    let long = "x".repeat(5000);
    let mut cases = Vec::new();
    for (method, binding) in public().flat_map(|method| method.http.iter().map(move |binding| (method, binding))) {
        let good = world.good(method.name);
        let strange = STRANGE.iter().copied().chain([long.as_str()]);
        let mut push = |path: String, what: String, must: bool| {
            let body = (!binding.body.is_empty()).then(|| split(binding, &good).1.to_string().into_bytes());
            cases.push(Case { method, verb: binding.verb, path, body, what, field: String::new(), must });
        };
        for value in strange {
            if let Some((before, after)) = binding.template.split_once('{') {
                let (name, after) = after.split_once('}').expect("a closed brace");
                push(format!("{before}{value}{after}"), format!("{name} {}", &value[..value.len().min(20)]), true);
            }
            if binding.body.is_empty() {
                let mut fields: Map<String, Value> = good.as_object().expect("an object").clone();
                let path = rest::fill(binding.template, &mut fields);
                for (name, kind) in &fields {
                    let must = kind.is_number() && value != "null" || value == "%00";
                    push(format!("{path}?{name}={value}"), format!("?{name}"), must);
                }
                push(format!("{path}?noSuchField={value}"), "?noSuchField".into(), true);
            }
        }
    }
    let many = cases.len();
    let found = faults(&world, cases).await;
    assert!(found.is_empty(), "{} of {many}:\n{}", found.len(), found.join("\n"));
    println!("{many} paths and queries");
    state::unchanged(&before, &state::at_rest().await);
    still_served(&world).await;
}

/// A path that is there says which verbs it knows.
async fn in_the_verb_is_a_405() {
    let world = World::new(&door::rest()).await;
    let mut known: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut paths = BTreeMap::new();
    for (method, binding) in public().flat_map(|method| method.http.iter().map(move |binding| (method, binding))) {
        known.entry(binding.template).or_default().insert(binding.verb);
        paths.insert(binding.template, split(binding, &world.good(method.name)).0);
    }
    let client = Client::new();
    for (template, verbs) in known {
        for verb in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"] {
            if verbs.contains(verb) {
                continue;
            }
            let method = reqwest::Method::from_bytes(verb.as_bytes()).expect("a verb");
            let request = client.request(method, format!("{}{}", shop().edge, paths[template]));
            let answer = rest::reply(request).await.expect("an answer");
            let allow = answer.headers.get("allow").map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default();
            let told: BTreeSet<&str> = allow.split(", ").collect();
            assert_eq!((answer.status, &told), (405, &verbs), "{verb} {template}");
        }
    }
}
