//! Turns `buf.validate` annotations into plain Rust. A rule that is not known here is an error, never skipped.

mod containers;
mod emit;
pub mod names;
mod numbers;
pub mod read;
mod value;

use super::{Result, policy::text};
use emit::violation;
use heck::ToLowerCamelCase;
use names::{borrowed, real_oneof, zero_test};
use prost_reflect::{Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor};
use read::{FieldRules, Ignore, unknown};

/// Packages whose messages prost does not generate here.
const NOT_GENERATED: [&str; 3] = ["google.protobuf", "buf.validate", "mercato.options.v1"];

/// Messages of a generated package whose files only the generators read.
const ANNOTATIONS: [&str; 2] = ["google.api.HttpRule", "google.api.CustomHttpPattern"];

/// One `impl Validate` for every message that a request can hold, also for those without a rule, and `warm` for the patterns.
pub fn generate(pool: &DescriptorPool) -> Result<String> {
    let mut generator = Generator::default();
    let generated = |m: &MessageDescriptor| !NOT_GENERATED.contains(&m.package_name()) && !ANNOTATIONS.contains(&m.full_name());
    for message in pool.all_messages().filter(|m| generated(m) && !m.is_map_entry()) {
        generator.message(&message)?;
    }
    Ok(generator.out + &patterns(&generator.patterns))
}

fn patterns(patterns: &[String]) -> String {
    let (mut statics, mut forces) = (String::new(), String::new());
    for (i, pattern) in patterns.iter().enumerate() {
        statics += &format!(
            "static PATTERN_{i}: std::sync::LazyLock<regex::Regex> =\n    \
             std::sync::LazyLock::new(|| regex::Regex::new({pattern:?}).expect(\"compiled once by build.rs\"));\n"
        );
        forces += &format!("    std::sync::LazyLock::force(&PATTERN_{i});\n");
    }
    format!("{statics}pub(crate) fn warm() {{\n{forces}}}\n")
}

#[derive(Default)]
struct Generator {
    out: String,
    /// Each pattern once; its place is its name.
    patterns: Vec<String>,
}

/// What a check is made on.
struct Target<'a> {
    /// The proto element, for error messages.
    of: &'a str,
    kind: Kind,
    /// A Rust expression: `&str`, `&[u8]`, a number, or a reference to a message.
    expr: String,
}

impl Generator {
    fn message(&mut self, message: &MessageDescriptor) -> Result<()> {
        let mut body = String::new();
        if let Some(rules) = extension(message.parent_pool(), &message.options(), "buf.validate.message") {
            message_rules(message, &rules, &mut body)?;
        }
        for field in message.fields().filter(|f| real_oneof(f).is_none()) {
            self.field(&field, &mut body)?;
        }
        for oneof in message.oneofs().filter(|o| !o.is_synthetic()) {
            self.oneof(&oneof, &mut body)?;
        }
        let (at, out) = if body.is_empty() { ("_", "_") } else { ("at", "out") };
        self.out += &format!(
            "impl crate::validate::Validate for {} {{\n    \
             fn validate(&self, {at}: &crate::validate::Path<'_>, {out}: &mut crate::validate::Violations) {{\n{body}    }}\n}}\n",
            names::message(message)
        );
        Ok(())
    }

    fn field(&mut self, field: &FieldDescriptor, body: &mut String) -> Result<()> {
        let rules = FieldRules::of(field)?;
        if rules.ignore == Ignore::Always {
            return Ok(());
        }
        let name = format!("self.{}", names::field(field.name()));
        let checks = if field.is_map() {
            self.map(&rules, field, &name)?
        } else if field.is_list() {
            self.list(&rules, field, &name)?
        } else if field.cardinality() == Cardinality::Required {
            return Err(unknown(field.full_name(), "proto2 required"));
        } else if field.supports_presence() {
            self.optional(&rules, field, &name)?
        } else {
            let kind = field.kind();
            let target = Target { of: field.full_name(), expr: borrowed(&kind, &name, false), kind };
            let mut checks = String::new();
            self.value(&rules, &target, &mut checks)?;
            wrap_empty(&rules, &zero_test(&target.kind, &name), &mut checks);
            checks
        };
        if !checks.is_empty() {
            *body += &format!("        {{ let at = &at.field({:?});\n{checks}        }}\n", field.json_name());
        }
        Ok(())
    }

    fn optional(&mut self, rules: &FieldRules, field: &FieldDescriptor, name: &str) -> Result<String> {
        let kind = field.kind();
        let target = Target { of: field.full_name(), expr: borrowed(&kind, "v", true), kind };
        let (mut checks, mut inner) = (String::new(), String::new());
        self.value(rules, &target, &mut inner)?;
        if rules.ignore == Ignore::IfZero {
            wrap_empty(rules, &zero_test(&target.kind, "(*v)"), &mut inner);
        }
        if rules.required {
            violation(&mut checks, &format!("{name}.is_none()"), "at", "required", "value is required");
        }
        if !inner.is_empty() {
            checks += &format!("        if let Some(v) = &{name} {{\n{inner}        }}\n");
        }
        Ok(checks)
    }

    fn oneof(&mut self, oneof: &OneofDescriptor, body: &mut String) -> Result<()> {
        let name = names::field(oneof.name());
        if oneof_required(oneof)? {
            let at = format!("&at.field({:?})", oneof.name().to_lower_camel_case());
            violation(body, &format!("self.{name}.is_none()"), &at, "required", "exactly one field is required in oneof");
        }
        let mut arms = String::new();
        for field in oneof.fields() {
            let rules = FieldRules::of(&field)?;
            if rules.required {
                return Err(unknown(field.full_name(), "required on a member of a oneof"));
            }
            if rules.ignore == Ignore::Always {
                continue;
            }
            let kind = field.kind();
            let target = Target { of: field.full_name(), expr: borrowed(&kind, "v", true), kind };
            let mut checks = String::new();
            self.value(&rules, &target, &mut checks)?;
            if !checks.is_empty() {
                let (kind, member) = (names::oneof(oneof), names::member(field.name()));
                arms += &format!(
                    "            Some({kind}::{member}(v)) => {{ let at = &at.field({:?});\n{checks}            }}\n",
                    field.json_name()
                );
            }
        }
        if !arms.is_empty() {
            *body += &format!("        match &self.{name} {{\n{arms}            _ => {{}}\n        }}\n");
        }
        Ok(())
    }
}

/// A CEL rule is a name to us: its Rust twin is `crate::named::<id>`, and `rustc` says when there is none.
fn message_rules(message: &MessageDescriptor, rules: &DynamicMessage, body: &mut String) -> Result<()> {
    for (rule, value) in rules.fields() {
        if rule.name() != "cel" {
            return Err(unknown(message.full_name(), &format!("message.{}", rule.name())));
        }
        for cel in value.as_list().unwrap_or_default().iter().filter_map(|v| v.as_message()) {
            let (id, told) = (text(cel, "id"), text(cel, "message"));
            let function = id.replace(['.', '-'], "_");
            violation(body, &format!("!crate::named::{function}(self)"), "at", &id, &told);
        }
    }
    Ok(())
}

fn oneof_required(oneof: &OneofDescriptor) -> Result<bool> {
    let Some(rules) = extension(oneof.parent_message().parent_pool(), &oneof.options(), "buf.validate.oneof") else {
        return Ok(false);
    };
    let mut required = false;
    for (rule, value) in rules.fields() {
        match rule.name() {
            "required" => required = value.as_bool() == Some(true),
            other => return Err(unknown(oneof.full_name(), &format!("oneof.{other}"))),
        }
    }
    Ok(required)
}

/// `required` and `ignore` of a value without presence: `required` stops the other checks.
fn wrap_empty(rules: &FieldRules, empty: &str, checks: &mut String) {
    if rules.required {
        let rest = std::mem::take(checks);
        violation(checks, empty, "at", "required", "value is required");
        if !rest.is_empty() {
            *checks += &format!("        if !({empty}) {{\n{rest}        }}\n");
        }
    } else if rules.ignore == Ignore::IfZero && !checks.is_empty() {
        *checks = format!("        if !({empty}) {{\n{checks}        }}\n");
    }
}

fn extension(pool: &DescriptorPool, options: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    super::policy::extension(pool, options, name)
}
