//! Checks on one value that is there.

use super::{
    Generator, Target,
    emit::{size, violation},
    read::{FieldRules, number, numbers, text, texts, unknown},
};
use crate::generate::Result;
use prost_reflect::{EnumDescriptor, Kind, Value};
use std::collections::BTreeSet;

impl Generator {
    pub(super) fn value(&mut self, rules: &FieldRules, target: &Target<'_>, checks: &mut String) -> Result<()> {
        let (of, expr) = (target.of, &target.expr);
        match &target.kind {
            Kind::Message(message) => {
                rules.typed(of, "")?;
                if !message.full_name().starts_with("google.protobuf.") {
                    *checks += &format!("        crate::validate::Validate::validate({expr}, at, out);\n");
                }
            }
            Kind::String => {
                for (rule, value) in rules.typed(of, "string")? {
                    self.string(target, &rule, &value, checks)?;
                }
                // PostgreSQL stores no NUL in text, and no caller means one
                violation(checks, &format!("{expr}.contains('\\0')"), "at", "string.no_nul", "must not contain U+0000");
            }
            Kind::Bytes => {
                for (rule, value) in rules.typed(of, "bytes")? {
                    match rule.as_str() {
                        "len" => size(checks, expr, "!=", &value, "bytes.len", "value must be {} bytes"),
                        "min_len" => size(checks, expr, "<", &value, "bytes.min_len", "value must be at least {} bytes"),
                        "max_len" => size(checks, expr, ">", &value, "bytes.max_len", "value must be at most {} bytes"),
                        other => return Err(unknown(of, &format!("bytes.{other}"))),
                    }
                }
            }
            Kind::Bool => {
                for (rule, value) in rules.typed(of, "bool")? {
                    let (true, Some(must)) = (rule == "const", value.as_bool()) else {
                        return Err(unknown(of, &format!("bool.{rule}")));
                    };
                    violation(checks, &format!("{expr} != {must}"), "at", "bool.const", &format!("must equal {must}"));
                }
            }
            Kind::Enum(kind) => {
                for (rule, value) in rules.typed(of, "enum")? {
                    enumeration(of, kind, expr, &rule, &value, checks)?;
                }
            }
            kind => super::numbers::number(rules, of, kind, expr, checks)?,
        }
        Ok(())
    }

    fn string(&mut self, target: &Target<'_>, rule: &str, value: &Value, checks: &mut String) -> Result<()> {
        let (of, expr) = (target.of, target.expr.as_str());
        let id = format!("string.{rule}");
        let (n, one) = (number(value), text(value));
        let mut add = |broken: String, told: String| violation(checks, &broken, "at", &id, &told);
        match rule {
            "min_len" => add(format!("crate::validate::shorter({expr}, {n})"), format!("must be at least {n} characters")),
            "max_len" => add(format!("crate::validate::longer({expr}, {n})"), format!("must be at most {n} characters")),
            "len" => add(format!("{expr}.chars().count() != {n}"), format!("must be {n} characters")),
            "min_bytes" => add(format!("{expr}.len() < {n}"), format!("must be at least {n} bytes")),
            "max_bytes" => add(format!("{expr}.len() > {n}"), format!("must be at most {n} bytes")),
            "const" => add(format!("{expr} != {one:?}"), format!("must equal `{one}`")),
            "prefix" => add(format!("!{expr}.starts_with({one:?})"), format!("does not have prefix `{one}`")),
            "suffix" => add(format!("!{expr}.ends_with({one:?})"), format!("does not have suffix `{one}`")),
            "in" => add(format!("!{}.contains(&{expr})", texts(value)), format!("must be in list {}", texts(value))),
            "not_in" => add(format!("{}.contains(&{expr})", texts(value)), format!("must not be in list {}", texts(value))),
            "pattern" => {
                let name = self.pattern(of, one)?;
                violation(checks, &format!("!{name}.is_match({expr})"), "at", &id, &format!("does not match regex pattern `{one}`"));
            }
            "uuid" => well_known(checks, expr, rule, "UUID", value),
            "email" => well_known(checks, expr, rule, "email address", value),
            "example" => {}
            other => return Err(unknown(of, &format!("string.{other}"))),
        }
        Ok(())
    }

    /// The name of the static that holds a pattern.
    fn pattern(&mut self, of: &str, pattern: &str) -> Result<String> {
        regex::Regex::new(pattern).map_err(|e| format!("{of}: {e}"))?;
        let place = self.patterns.iter().position(|p| p == pattern).unwrap_or_else(|| {
            self.patterns.push(pattern.to_owned());
            self.patterns.len() - 1
        });
        Ok(format!("PATTERN_{place}"))
    }
}

fn well_known(checks: &mut String, expr: &str, rule: &str, noun: &str, value: &Value) {
    if value.as_bool() == Some(true) {
        let id = format!("string.{rule}");
        let empty = format!("value is empty, which is not a valid {noun}");
        violation(checks, &format!("{expr}.is_empty()"), "at", &format!("{id}_empty"), &empty);
        let broken = format!("!{expr}.is_empty() && !crate::validate::{rule}({expr})");
        violation(checks, &broken, "at", &id, &format!("must be a valid {noun}"));
    }
}

fn enumeration(of: &str, kind: &EnumDescriptor, expr: &str, rule: &str, value: &Value, checks: &mut String) -> Result<()> {
    let id = format!("enum.{rule}");
    let (n, any, listed) = (number(value), numbers(value, " | "), numbers(value, ", "));
    let mut add = |broken: String, told: String| violation(checks, &broken, "at", &id, &told);
    match rule {
        "defined_only" if value.as_bool() == Some(true) => {
            let known = kind.values().map(|v| v.number()).collect::<BTreeSet<_>>();
            let known = known.into_iter().map(|n| n.to_string()).collect::<Vec<_>>().join(" | ");
            add(format!("!matches!({expr}, {known})"), "value must be one of the defined enum values".into());
        }
        "defined_only" => {}
        "const" => add(format!("{expr} != {n}"), format!("value must equal {n}")),
        "in" => add(format!("!matches!({expr}, {any})"), format!("value must be in list [{listed}]")),
        "not_in" => add(format!("matches!({expr}, {any})"), format!("value must not be in list [{listed}]")),
        other => return Err(unknown(of, &format!("enum.{other}"))),
    }
    Ok(())
}
