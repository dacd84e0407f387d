//! The few shapes that generated checks have.

use super::read::number;
use prost_reflect::Value;

/// `if <broken> { out.add(<at>, <id>, <text>); }`
pub fn violation(body: &mut String, broken: &str, at: &str, id: &str, text: &str) {
    *body += &format!("        if {broken} {{ out.add({at}, {id:?}, {text:?}); }}\n");
}

/// A bound on the length of a list, map or bytes; `{}` in `text` becomes the limit.
pub fn size(body: &mut String, expr: &str, op: &str, limit: &Value, id: &str, text: &str) {
    let n = number(limit);
    violation(body, &format!("{expr}.len() {op} {n}"), "at", id, &text.replace("{}", &n));
}

/// A list that is too long is not looked at any further: its length is the caller's, our CPU is not.
pub fn within(expr: &str, most: Option<String>, each: String) -> String {
    match most {
        Some(most) if !each.is_empty() => format!("        if {expr}.len() <= {most} {{\n{each}        }}\n"),
        _ => each,
    }
}
