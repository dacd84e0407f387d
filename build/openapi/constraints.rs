//! Field rules as JSON Schema keywords.

use crate::generate::{
    Result,
    rules::read::{FieldRules, Ignore, number, text},
};
use prost_reflect::{FieldDescriptor, Kind, Value};
use serde_json::{Map, Value as Json, json};

/// Adds what the rules of a field demand to its schema.
pub fn add(schema: &mut Json, field: &FieldDescriptor) -> Result<()> {
    let rules = FieldRules::of(field)?;
    let Some(schema) = schema.as_object_mut() else { return Ok(()) };
    // a text that may be empty, or else must keep its rules
    if rules.ignore == Ignore::IfZero && matches!(field.kind(), Kind::String) && !field.is_list() {
        let mut kept = Map::new();
        for (rule, value) in rules.any() {
            keyword(&mut kept, &field.kind(), rule, value, field.full_name())?;
        }
        schema.insert("anyOf".to_owned(), json!([kept, { "maxLength": 0 }]));
        return Ok(());
    }
    for (rule, value) in rules.any() {
        keyword(schema, &field.kind(), rule, value, field.full_name())?;
    }
    Ok(())
}

/// Whether a request without this field is refused.
pub fn required(field: &FieldDescriptor) -> Result<bool> {
    let rules = FieldRules::of(field)?;
    if rules.required {
        return Ok(true);
    }
    if field.supports_presence() || rules.ignore != Ignore::Unspecified {
        return Ok(false);
    }
    Ok(rules.any().iter().any(|(rule, value)| refuses_default(rule, value)))
}

/// Whether a rule is broken by the value that an absent field has.
fn refuses_default(rule: &str, value: &Value) -> bool {
    let n = number(value).parse::<f64>().unwrap_or_default();
    match rule {
        "min_len" | "min_bytes" | "len" | "min_items" | "min_pairs" => n > 0.0,
        "uuid" | "email" => value.as_bool() == Some(true),
        "pattern" => regex::Regex::new(text(value)).is_ok_and(|pattern| !pattern.is_match("")),
        "gt" => n >= 0.0,
        "gte" => n > 0.0,
        "lt" => n <= 0.0,
        "lte" => n < 0.0,
        "in" => !values(value).iter().any(|v| *v == json!("") || *v == json!(0)),
        "not_in" => values(value).contains(&json!(0)),
        "prefix" | "suffix" => !text(value).is_empty(),
        _ => false,
    }
}

fn values(list: &Value) -> Vec<Json> {
    list.as_list().unwrap_or_default().iter().map(plain).collect()
}

/// A number or a text of a rule as JSON.
fn plain(value: &Value) -> Json {
    match value {
        Value::String(s) => json!(s),
        Value::Bool(b) => json!(b),
        Value::F64(n) if n.fract() == 0.0 && n.abs() < 9e15 => json!(*n as i64),
        Value::F64(n) => json!(n),
        Value::I64(n) => json!(n),
        Value::U64(n) => json!(n),
        Value::I32(n) | Value::EnumNumber(n) => json!(n),
        Value::U32(n) => json!(n),
        _ => Json::Null,
    }
}

fn keyword(schema: &mut Map<String, Json>, kind: &Kind, rule: &str, value: &Value, of: &str) -> Result<()> {
    // ProtoJSON writes 64-bit integers as text or as numbers; the numeric keywords bind the numbers, an enumeration would bind both.
    let wide = matches!(kind, Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64);
    let mut set = |key: &str, json: Json| schema.insert(key.to_owned(), json);
    match (rule, kind) {
        ("min_len", Kind::String) => drop(set("minLength", plain(value))),
        ("max_len" | "max_bytes", Kind::String) => drop(set("maxLength", plain(value))),
        ("len", Kind::String) => {
            set("minLength", plain(value));
            set("maxLength", plain(value));
        }
        ("pattern", Kind::String) => drop(set("pattern", plain(value))),
        ("uuid" | "email", Kind::String) if value.as_bool() == Some(true) => drop(set("format", json!(rule))),
        ("max_len", Kind::Bytes) => drop(set("maxLength", json!(value.as_u64().unwrap_or_default().div_ceil(3) * 4))),
        ("in", Kind::Enum(e)) => drop(set("enum", names(e, value))),
        ("not_in", Kind::Enum(e)) => drop(set("not", json!({"enum": names(e, value)}))),
        ("in", _) if !wide => drop(set("enum", json!(values(value)))),
        ("const", Kind::String | Kind::Bool) => drop(set("const", plain(value))),
        ("gt", _) => drop(set("exclusiveMinimum", plain(value))),
        ("gte", _) => drop(set("minimum", plain(value))),
        ("lt", _) => drop(set("exclusiveMaximum", plain(value))),
        ("lte", _) => drop(set("maximum", plain(value))),
        ("min_items", _) => drop(set("minItems", plain(value))),
        ("max_items", _) => drop(set("maxItems", plain(value))),
        ("unique", _) if value.as_bool() == Some(true) => drop(set("uniqueItems", json!(true))),
        ("min_pairs", _) => drop(set("minProperties", plain(value))),
        ("max_pairs", _) => drop(set("maxProperties", plain(value))),
        ("items", _) => {
            let rules = FieldRules::read(of, value.as_message())?;
            if let Some(items) = schema.get_mut("items").and_then(Json::as_object_mut) {
                for (rule, value) in rules.any() {
                    keyword(items, kind, rule, value, of)?;
                }
            }
        }
        // What JSON Schema has no word for stays in the comment.
        _ => {}
    }
    Ok(())
}

fn names(kind: &prost_reflect::EnumDescriptor, list: &Value) -> Json {
    let numbers = list.as_list().unwrap_or_default().iter().filter_map(|v| v.as_i32());
    numbers.filter_map(|n| kind.get_value(n)).map(|v| v.name().to_owned()).collect()
}
