//! How prost names in Rust what is named in proto.

use heck::{ToSnakeCase, ToUpperCamelCase};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};

const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn", "else", "enum", "extern", "final",
    "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "static", "struct", "trait", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// A field, oneof or module.
pub fn field(name: &str) -> String {
    let name = name.to_snake_case();
    if KEYWORDS.contains(&name.as_str()) { format!("r#{name}") } else { name }
}

/// `mercato.ordering.v1.Order.Line` is `crate::mercato::ordering::v1::order::Line`.
pub fn message(message: &MessageDescriptor) -> String {
    let (parents, name) = message.full_name().rsplit_once('.').unwrap_or(("", message.full_name()));
    format!("{}::{}", module(parents), name.to_upper_camel_case())
}

/// The enum that prost makes of a oneof.
pub fn oneof(oneof: &OneofDescriptor) -> String {
    format!("{}::{}", module(oneof.parent_message().full_name()), oneof.name().to_upper_camel_case())
}

/// A member of the enum that prost makes of a oneof.
pub fn member(name: &str) -> String {
    name.to_upper_camel_case()
}

fn module(full_name: &str) -> String {
    full_name.split('.').fold("crate".to_string(), |path, part| path + "::" + &field(part))
}

/// The oneof a field is written in; not the synthetic one of an `optional` field.
pub fn real_oneof(field: &FieldDescriptor) -> Option<OneofDescriptor> {
    field.containing_oneof().filter(|o| !o.is_synthetic())
}

/// How a value is read; `by_ref` when `name` is already a reference.
pub fn borrowed(kind: &Kind, name: &str, by_ref: bool) -> String {
    match kind {
        Kind::String => format!("{name}.as_str()"),
        Kind::Bytes => format!("{name}.as_ref()"),
        Kind::Message(_) if by_ref => name.into(),
        Kind::Message(_) => format!("&{name}"),
        _ if by_ref => format!("(*{name})"),
        _ => name.into(),
    }
}

/// A Rust expression: whether the value is its type's default.
pub fn zero_test(kind: &Kind, name: &str) -> String {
    match kind {
        Kind::String | Kind::Bytes => format!("{name}.is_empty()"),
        Kind::Bool => format!("!{name}"),
        Kind::Float | Kind::Double => format!("{name} == 0.0"),
        Kind::Message(_) => "false".into(),
        _ => format!("{name} == 0"),
    }
}
