//! Numbers and their ranges.

use super::{
    emit::violation,
    read::{FieldRules, number as source, numbers, unknown},
};
use crate::generate::Result;
use prost_reflect::Kind;

/// One end of a range.
struct Bound {
    op: &'static str,
    words: &'static str,
    rule: String,
    limit: String,
}

/// Checks on a number.
pub(super) fn number(rules: &FieldRules, of: &str, kind: &Kind, expr: &str, checks: &mut String) -> Result<()> {
    let name = format!("{kind:?}").to_lowercase();
    let float = matches!(kind, Kind::Float | Kind::Double);
    let (mut low, mut high) = (None, None);
    for (rule, value) in rules.typed(of, &name)? {
        let n = source(&value);
        let id = format!("{name}.{rule}");
        let listed = numbers(&value, ", ");
        let bound = |op, words| Some(Bound { op, words, rule: rule.clone(), limit: n.clone() });
        match rule.as_str() {
            "gt" => low = bound(">", "greater than"),
            "gte" => low = bound(">=", "greater than or equal to"),
            "lt" => high = bound("<", "less than"),
            "lte" => high = bound("<=", "less than or equal to"),
            "const" => violation(checks, &format!("{expr} != {n}"), "at", &id, &format!("value must equal {n}")),
            "in" => violation(checks, &format!("![{listed}].contains(&{expr})"), "at", &id, &format!("value must be in list [{listed}]")),
            "not_in" => {
                violation(checks, &format!("[{listed}].contains(&{expr})"), "at", &id, &format!("value must not be in list [{listed}]"));
            }
            "finite" if float => violation(checks, &format!("!{expr}.is_finite()"), "at", &id, "value must be finite"),
            "example" => {}
            _ => return Err(unknown(of, &id)),
        }
    }
    range(of, &name, expr, low, high, checks)
}

/// `!(a > b)` and not `a <= b`: NaN must fail.
fn range(of: &str, name: &str, expr: &str, low: Option<Bound>, high: Option<Bound>, checks: &mut String) -> Result<()> {
    match (low, high) {
        (Some(l), Some(h)) => {
            let (from, to) = (l.limit.parse::<f64>(), h.limit.parse::<f64>());
            if !matches!((from, to), (Ok(from), Ok(to)) if from < to) {
                return Err(format!(
                    "{of}: {name}.{} {} and {} {} leave no value (exclusive ranges are not supported)",
                    l.rule, l.limit, h.rule, h.limit
                ));
            }
            violation(
                checks,
                &format!("!({expr} {} {} && {expr} {} {})", l.op, l.limit, h.op, h.limit),
                "at",
                &format!("{name}.{}_{}", l.rule, h.rule),
                &format!("value must be {} {} and {} {}", l.words, l.limit, h.words, h.limit),
            );
        }
        (Some(b), None) | (None, Some(b)) => violation(
            checks,
            &format!("!({expr} {} {})", b.op, b.limit),
            "at",
            &format!("{name}.{}", b.rule),
            &format!("value must be {} {}", b.words, b.limit),
        ),
        (None, None) => {}
    }
    Ok(())
}
