//! Money: I-7, I-8 and I-9. The provider's ledger is the judge, not ours.

use super::{Finder, Violation};
use crate::facts::Facts;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// Every transaction of our ledger balances in every currency.
pub(super) fn balanced(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-7");
    let mut sums: BTreeMap<(Uuid, &str), i64> = BTreeMap::new();
    for line in &facts.ledger {
        let signed = if line.side == "D" { line.amount } else { -line.amount };
        *sums.entry((line.tx, &line.currency)).or_default() += signed;
        found.check(line.amount > 0, None, || format!("a line of {} minor units in transaction {}", line.amount, line.tx));
    }
    for ((tx, currency), sum) in sums {
        found.check(sum == 0, None, || format!("transaction {tx} is off by {sum} {currency}"));
    }
    found.done()
}

/// The provider took the money of an order at most once, not more than its total, and gave back not more than it took.
pub(super) fn no_double_charge(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-8");
    let totals: HashMap<Uuid, i64> = facts.orders.iter().map(|order| (order.id, order.total)).collect();
    let mut taken: BTreeMap<Uuid, (usize, i64, i64)> = BTreeMap::new();
    let mut held: BTreeMap<(Uuid, &str), usize> = BTreeMap::new();
    for entry in &facts.provider {
        let Some(order) = entry.order() else {
            found.check(false, None, || format!("the provider knows {}, which is no order", entry.reference));
            continue;
        };
        let sums = taken.entry(order).or_default();
        match entry.kind.as_str() {
            "captured" => {
                sums.0 += 1;
                sums.1 += entry.amount_minor;
            }
            "refunded" => sums.2 += entry.amount_minor,
            "authorized" => *held.entry((order, &entry.reference)).or_default() += 1,
            _ => {}
        }
    }
    for ((order, reference), times) in held {
        found.check(times == 1, order, || format!("reference {reference} was authorised {times} times"));
    }
    for (order, (captures, captured, refunded)) in taken {
        let total = totals.get(&order).copied();
        found.check(captures <= 1, order, || format!("{captures} captures"));
        found.check(total.is_some_and(|total| captured <= total), order, || format!("{captured} captured of a total of {total:?}"));
        found.check(refunded <= captured, order, || format!("{refunded} refunded of {captured}"));
    }
    found.done()
}

/// Our ledger and the provider's tell the same, line for line, and nothing is in doubt any more.
pub(super) fn ledgers_agree(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-9");
    let step = |kind: &str| match kind {
        "authorized" => Some("authorize"),
        "captured" => Some("capture"),
        "voided" => Some("void"),
        "refunded" => Some("refund"),
        _ => None,
    };
    let theirs: BTreeMap<(&str, &str), (i64, &str)> = facts
        .provider
        .iter()
        .filter(|entry| entry.amount_minor != 0)
        .filter_map(|entry| Some(((entry.key.as_str(), step(&entry.kind)?), (entry.amount_minor, entry.currency.as_str()))))
        .collect();
    let ours: BTreeMap<(&str, &str), (i64, &str)> =
        facts.ledger.iter().map(|line| ((line.provider_ref.as_str(), line.step.as_str()), (line.amount, line.currency.as_str()))).collect();
    let order = |key: &str| key.split(':').next().and_then(|id| id.parse::<Uuid>().ok());
    for (key, amount) in &theirs {
        let mine = ours.get(key);
        found.check(mine == Some(amount), order(key.0), || format!("{key:?}: the provider has {amount:?}, we have {mine:?}"));
    }
    for (key, amount) in ours.iter().filter(|(key, _)| !theirs.contains_key(*key)) {
        found.check(false, order(key.0), || format!("{key:?}: we have {amount:?}, the provider has nothing"));
    }
    for payment in facts.payments.iter().filter(|payment| payment.status == "UNKNOWN") {
        found.check(false, payment.order, || "the payment is still unknown".to_owned());
    }
    for (order, what) in &facts.attempts_in_doubt {
        found.check(false, *order, || format!("an attempt is still open: {what}"));
    }
    found.done()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{broken, sound};
    use crate::facts::Facts;

    fn entry(facts: &Facts, kind: &str) -> crate::facts::ProviderEntry {
        facts.provider.iter().find(|entry| entry.kind == kind).unwrap().clone()
    }

    #[test]
    fn a_transaction_that_does_not_balance_is_seen() {
        assert!(broken(&sound(), "I-7", |facts| facts.ledger[0].amount += 1));
    }

    #[test]
    fn a_second_charge_is_seen() {
        let twice = |facts: &mut Facts| {
            let mut again = entry(facts, "captured");
            again.key.push('2');
            facts.provider.push(again);
        };
        assert!(broken(&sound(), "I-8", twice));
        let too_much = |facts: &mut Facts| facts.provider.iter_mut().for_each(|entry| entry.amount_minor += 1);
        assert!(broken(&sound(), "I-8", too_much));
        let held_twice = |facts: &mut Facts| {
            let mut again = entry(facts, "authorized");
            again.key.push('2');
            facts.provider.push(again);
        };
        assert!(broken(&sound(), "I-8", held_twice));
        let refunded = |facts: &mut Facts| {
            let mut back = entry(facts, "captured");
            back.kind = "refunded".into();
            back.amount_minor += 1;
            facts.provider.push(back);
        };
        assert!(broken(&sound(), "I-8", refunded));
    }

    #[test]
    fn ledgers_that_differ_are_seen() {
        assert!(broken(&sound(), "I-9", |facts| facts.provider.retain(|entry| entry.kind != "captured")));
        assert!(broken(&sound(), "I-9", |facts| facts.ledger.retain(|line| line.step != "void")));
        assert!(broken(&sound(), "I-9", |facts| facts.payments[0].status = "UNKNOWN".into()));
        assert!(broken(&sound(), "I-9", |facts| facts.attempts_in_doubt.push((facts.orders[0].id, "capture UNKNOWN".into()))));
    }
}
