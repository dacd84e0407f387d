//! Believable examples, the same in every build.

use super::comments::Comment;
use crate::generate::{
    Result,
    rules::{
        names::real_oneof,
        read::{FieldRules, number, text},
    },
};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, Value};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;

const UUID: &str = "0198f2c4-7a1b-7c3d-8e4f-000000000001";

/// How deep messages are shown in each other.
const DEPTH: usize = 5;

/// Values that fit a field of this name, or this field of this message.
const BY_NAME: &[(&str, &str)] = &[
    ("Category.id", "kitchen"),
    ("Category.name", "Kitchen"),
    ("TimelineEntry.description", "The order was placed."),
    ("access_token", "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIwMTk4ZjJjNCJ9.c2lnbmF0dXJl"),
    ("amount", "29.99"),
    ("category", "kitchen"),
    ("cause", "reserve"),
    ("city", "Koeln"),
    ("comment", "Ordered twice by mistake."),
    ("country_code", "DE"),
    ("currency_code", "EUR"),
    ("description", "Holds 300 ml, dishwasher safe."),
    ("email", "sample@example.com"),
    ("etag", "7"),
    ("images", "/images/blue-mug.jpg"),
    ("last_error", "the provider did not answer in time"),
    ("name", "Blue mug"),
    ("password", "correct horse battery"),
    ("payment_method", "credit_card"),
    ("payment_token", "tok_1a2b3c"),
    ("phone", "+49 221 123456"),
    ("price_max", "50.00"),
    ("price_min", "10.00"),
    ("provider", "dev"),
    ("refresh_token", "rt_5PqT3oXo1l7kVx0c"),
    ("roles", "staff"),
    ("state", "NW"),
    ("street", "Hauptstrasse 5"),
    ("tags", "mug"),
    ("token_type", "Bearer"),
    ("type", "order.created"),
    ("username", "sample"),
    ("value", "blue"),
    ("waiting_for", "payment"),
    ("warehouse_id", "main"),
    ("zip_code", "50667"),
];

/// Fields that are empty more often than not, and say nothing in an example.
const EMPTY: &[&str] = &["page_token", "next_page_token", "status_reason", "failure_reason", "missing", "user_id"];

/// Switches that are off more often than not.
const USUALLY_FALSE: &[&str] = &["hidden", "sms"];

/// The example in the message's comment, or one made up; without the fields in `left_out`.
pub fn message(message: &MessageDescriptor, left_out: &BTreeSet<String>) -> Result<Json> {
    object(message, left_out, DEPTH)
}

fn object(message: &MessageDescriptor, left_out: &BTreeSet<String>, depth: usize) -> Result<Json> {
    match message.full_name() {
        "google.protobuf.Timestamp" => return Ok(json!("2026-11-21T10:15:30Z")),
        "google.protobuf.Duration" => return Ok(json!("1.500s")),
        "google.protobuf.FieldMask" => return Ok(json!("name,price")),
        "google.protobuf.Empty" => return Ok(json!({})),
        _ => {}
    }
    if let Some(written) = Comment::read(&message.parent_file(), message.path())?.example {
        return Ok(written);
    }
    let mut fields = Map::new();
    let mut told = BTreeSet::new();
    for field in message.fields().filter(|f| !left_out.contains(f.name())) {
        // Of a oneof, only the first member.
        if real_oneof(&field).is_some_and(|oneof| !told.insert(oneof.name().to_owned())) {
            continue;
        }
        if let Some(value) = any(&field, depth)? {
            fields.insert(field.json_name().to_owned(), value);
        }
    }
    Ok(fields.into())
}

fn any(field: &FieldDescriptor, depth: usize) -> Result<Option<Json>> {
    if field.is_map() {
        return Ok(None);
    }
    let rules = FieldRules::of(field)?;
    if !field.is_list() {
        return one(field, &rules, depth);
    }
    let items = rules.any().iter().find(|(rule, _)| rule == "items");
    let items = FieldRules::read(field.full_name(), items.and_then(|(_, v)| v.as_message()))?;
    Ok(one(field, &items, depth)?.map(|item| json!([item])))
}

/// One value of a field, or of a list's items.
pub fn one(field: &FieldDescriptor, rules: &FieldRules, depth: usize) -> Result<Option<Json>> {
    Ok(match field.kind() {
        Kind::Message(_) if depth == 0 => None,
        Kind::Message(m) if m.full_name() == "google.api.HttpBody" => None,
        Kind::Message(m) => Some(object(&m, &BTreeSet::new(), depth - 1)?),
        Kind::Enum(e) => e.values().find(|v| v.number() != 0).map(|v| json!(v.name())),
        Kind::Bool => Some(json!(!USUALLY_FALSE.contains(&field.name()))),
        Kind::Double | Kind::Float => Some(json!(29.99)),
        Kind::String => string(field, rules.any()).map(Json::from),
        Kind::Bytes => Some(json!("aGVsbG8=")),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => Some(json!(whole(field.name(), rules).to_string())),
        _ => Some(json!(whole(field.name(), rules))),
    })
}

fn whole(name: &str, rules: &FieldRules) -> i64 {
    let bound = |wanted: &str, more: i64| {
        let found = rules.any().iter().find(|(rule, _)| rule == wanted)?;
        number(&found.1).parse::<i64>().ok().map(|n| n + more)
    };
    let low = bound("gt", 1).or_else(|| bound("gte", 0)).unwrap_or(i64::MIN);
    let high = bound("lt", -1).or_else(|| bound("lte", 0)).unwrap_or(i64::MAX);
    let natural = match name {
        "page_size" => 20,
        "expires_in" => 900,
        "stock" | "stock_level" | "available" | "product_count" => 100,
        "quantity" => 2,
        "level_delta" | "available_delta" => -2,
        _ => 1,
    };
    natural.clamp(low, high.max(low))
}

/// A text that keeps the rules; nothing when none is known.
fn string(field: &FieldDescriptor, rules: &[(String, Value)]) -> Option<String> {
    let name = field.name();
    if EMPTY.contains(&name) {
        return None;
    }
    let on = |wanted: &str| rules.iter().find(|(rule, _)| rule == wanted).map(|(_, v)| v);
    if let Some(listed) = on("in").and_then(|v| v.as_list()).and_then(|l| l.first()) {
        return Some(text(listed).to_owned());
    }
    let full = format!("{}.{name}", field.parent_message().name());
    let named = BY_NAME.iter().find(|(n, _)| *n == full || *n == name).map(|(_, v)| *v);
    let id = (name == "id" || name.ends_with("_id") || name.ends_with("_ids") || on("uuid").is_some()).then_some(UUID);
    let candidates = [named, id, Some("text"), Some("1"), Some("EUR"), Some("DE")];
    candidates.into_iter().flatten().find(|candidate| keeps(candidate, rules)).map(String::from)
}

fn keeps(candidate: &str, rules: &[(String, Value)]) -> bool {
    let length = candidate.chars().count() as f64;
    rules.iter().all(|(rule, value)| {
        let n = number(value).parse::<f64>().unwrap_or_default();
        match rule.as_str() {
            "min_len" => length >= n,
            "max_len" => length <= n,
            "len" => length == n,
            "pattern" => regex::Regex::new(text(value)).is_ok_and(|pattern| pattern.is_match(candidate)),
            "uuid" => candidate == UUID,
            "email" => candidate.contains('@'),
            "prefix" => candidate.starts_with(text(value)),
            "suffix" => candidate.ends_with(text(value)),
            _ => true,
        }
    })
}
