//! Lists and maps.

use super::{
    Generator, Target,
    emit::{size, violation, within},
    names::{borrowed, zero_test},
    read::{FieldRules, Ignore, number, unknown},
    wrap_empty,
};
use crate::generate::Result;
use prost_reflect::FieldDescriptor;

impl Generator {
    pub(super) fn list(&mut self, rules: &FieldRules, field: &FieldDescriptor, expr: &str) -> Result<String> {
        let of = field.full_name();
        let mut checks = String::new();
        let mut items = FieldRules::default();
        let (mut most, mut unique) = (None, false);
        for (rule, value) in rules.typed(of, "repeated")? {
            match rule.as_str() {
                "min_items" => size(&mut checks, expr, "<", &value, "repeated.min_items", "value must contain at least {} item(s)"),
                "max_items" => {
                    size(&mut checks, expr, ">", &value, "repeated.max_items", "value must contain no more than {} item(s)");
                    most = Some(number(&value));
                }
                "unique" => unique = value.as_bool() == Some(true),
                "items" => items = FieldRules::read(of, value.as_message())?,
                other => return Err(unknown(of, &format!("repeated.{other}"))),
            }
        }
        let kind = field.kind();
        let target = Target { of, expr: borrowed(&kind, "v", true), kind };
        let mut inner = String::new();
        self.value(&items, &target, &mut inner)?;
        wrap_empty(&items, &zero_test(&target.kind, "(*v)"), &mut inner);
        let mut each = String::new();
        if unique {
            let broken = format!("!crate::validate::unique(&{expr})");
            violation(&mut each, &broken, "at", "repeated.unique", "repeated value must contain unique items");
        }
        if !inner.is_empty() && items.ignore != Ignore::Always {
            each += &format!("        for (i, v) in {expr}.iter().enumerate() {{ let at = &at.index(i);\n{inner}        }}\n");
        }
        checks += &within(expr, most, each);
        wrap_empty(rules, &format!("{expr}.is_empty()"), &mut checks);
        Ok(checks)
    }

    pub(super) fn map(&mut self, rules: &FieldRules, field: &FieldDescriptor, expr: &str) -> Result<String> {
        let of = field.full_name();
        let kind = field.kind();
        let entry = kind.as_message().ok_or_else(|| format!("{of}: a map without an entry"))?;
        let mut checks = String::new();
        let (mut keys, mut values) = (FieldRules::default(), FieldRules::default());
        let mut most = None;
        for (rule, value) in rules.typed(of, "map")? {
            match rule.as_str() {
                "min_pairs" => size(&mut checks, expr, "<", &value, "map.min_pairs", "map must be at least {} entries"),
                "max_pairs" => {
                    size(&mut checks, expr, ">", &value, "map.max_pairs", "map must be at most {} entries");
                    most = Some(number(&value));
                }
                "keys" => keys = FieldRules::read(of, value.as_message())?,
                "values" => values = FieldRules::read(of, value.as_message())?,
                other => return Err(unknown(of, &format!("map.{other}"))),
            }
        }
        let mut inner = String::new();
        for (rules, field, name) in [(&keys, entry.map_entry_key_field(), "k"), (&values, entry.map_entry_value_field(), "v")] {
            let kind = field.kind();
            let target = Target { of, expr: borrowed(&kind, name, true), kind };
            let mut one = String::new();
            self.value(rules, &target, &mut one)?;
            wrap_empty(rules, &zero_test(&target.kind, &format!("(*{name})")), &mut one);
            inner += &one;
        }
        if !inner.is_empty() {
            let each = format!("        for (k, v) in &{expr} {{ let (at, _) = (&at.key(k), v);\n{inner}        }}\n");
            checks += &within(expr, most, each);
        }
        wrap_empty(rules, &format!("{expr}.is_empty()"), &mut checks);
        Ok(checks)
    }
}
