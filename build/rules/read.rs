//! The rules of a field, as they are annotated.

use crate::generate::Result;
use prost_reflect::{DynamicMessage, FieldDescriptor, Value};

/// When the rules of a field are not applied.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Ignore {
    /// Never, or when absent for a field with presence.
    #[default]
    Unspecified,
    /// When the value is the default.
    IfZero,
    /// Always.
    Always,
}

/// The rules of one field, or of the items of a list.
#[derive(Default)]
pub struct FieldRules {
    /// Whether it must be set.
    pub required: bool,
    /// When the rules are not applied.
    pub ignore: Ignore,
    /// The one member of the `type` oneof: its name and the rules set in it.
    kind: Option<(String, Vec<(String, Value)>)>,
}

impl FieldRules {
    /// The rules annotated on a field.
    pub fn of(field: &FieldDescriptor) -> Result<Self> {
        let extension = field.parent_pool().get_extension_by_name("buf.validate.field");
        let options = field.options();
        let rules = extension.filter(|e| options.has_extension(e)).map(|e| options.get_extension(&e).into_owned());
        Self::read(field.full_name(), rules.as_ref().and_then(|v| v.as_message()))
    }

    /// Reads a `buf.validate.FieldRules`; `of` names the element in errors.
    pub fn read(of: &str, rules: Option<&DynamicMessage>) -> Result<Self> {
        let mut read = Self::default();
        let Some(rules) = rules else { return Ok(read) };
        refuse_unread(of, rules)?;
        for (rule, value) in rules.fields() {
            match (rule.name(), value) {
                ("required", Value::Bool(required)) => read.required = *required,
                ("ignore", Value::EnumNumber(ignore)) => {
                    read.ignore = match ignore {
                        0 => Ignore::Unspecified,
                        1 => Ignore::IfZero,
                        3 => Ignore::Always,
                        n => return Err(unknown(of, &format!("ignore {n}"))),
                    }
                }
                (name, Value::Message(typed)) => {
                    refuse_unread(of, typed)?;
                    read.kind = Some((name.into(), typed.fields().map(|(f, v)| (f.name().to_owned(), v.clone())).collect()));
                }
                (other, _) => return Err(unknown(of, other)),
            }
        }
        Ok(read)
    }

    /// The rules of this type; rules of another type are an error.
    pub fn typed(&self, of: &str, kind: &str) -> Result<Vec<(String, Value)>> {
        match &self.kind {
            None => Ok(vec![]),
            Some((name, rules)) if name == kind => Ok(rules.clone()),
            Some((name, _)) if kind.is_empty() => Err(unknown(of, &format!("{name} on a message"))),
            Some((name, _)) => Err(unknown(of, &format!("{name} on a field that is not {kind}"))),
        }
    }

    /// The rules whatever their type; for readers that do not enforce them.
    pub fn any(&self) -> &[(String, Value)] {
        self.kind.as_ref().map(|(_, rules)| rules.as_slice()).unwrap_or_default()
    }
}

fn refuse_unread(of: &str, rules: &DynamicMessage) -> Result<()> {
    if rules.unknown_fields().next().is_some() || rules.extensions().next().is_some() {
        return Err(unknown(of, "a predefined or newer rule"));
    }
    Ok(())
}

/// The error for a rule that nobody would enforce.
pub fn unknown(of: &str, rule: &str) -> String {
    format!("{of}: the validation generator does not know `{rule}`")
}

/// A number as Rust source.
pub fn number(value: &Value) -> String {
    match value {
        Value::I32(n) | Value::EnumNumber(n) => n.to_string(),
        Value::I64(n) => n.to_string(),
        Value::U32(n) => n.to_string(),
        Value::U64(n) => n.to_string(),
        Value::F32(n) => format!("{n:?}"),
        Value::F64(n) => format!("{n:?}"),
        _ => String::new(),
    }
}

/// The numbers of a list as Rust source.
pub fn numbers(value: &Value, between: &str) -> String {
    value.as_list().unwrap_or_default().iter().map(number).collect::<Vec<_>>().join(between)
}

/// A text.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A list of texts as Rust source.
pub fn texts(value: &Value) -> String {
    format!("{:?}", value.as_list().unwrap_or_default().iter().map(text).collect::<Vec<_>>())
}
