//! What clients were promised: I-1, I-2, I-3, I-19, I-22 and the half of I-18 that a reader can see.

use super::{Finder, Violation};
use crate::{
    facts::{Facts, OrderRow},
    history::{Ask, Op, Reply},
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use uuid::Uuid;

fn placed(facts: &Facts) -> impl Iterator<Item = (&Op, &[(Uuid, i64)])> {
    facts.ops.iter().filter(|op| !op.repeated).filter_map(|op| match &op.ask {
        Ask::Place { lines, .. } => Some((op, lines.as_slice())),
        _ => None,
    })
}

/// An order that was acknowledged exists, is what was asked for at our prices, and can be read.
pub(super) fn no_lost_order(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-1");
    let orders: HashMap<Uuid, &OrderRow> = facts.orders.iter().map(|order| (order.id, order)).collect();
    for (op, lines) in placed(facts) {
        let Some(seen) = op.outcome().and_then(Reply::seen) else { continue };
        let Some(order) = orders.get(&seen.id) else {
            found.check(false, seen.id, || format!("operation {} was acknowledged, its order does not exist", op.id));
            continue;
        };
        let sorted = |lines: &[(Uuid, i64)]| lines.iter().copied().collect::<BTreeMap<_, _>>();
        let total: i64 = lines.iter().filter_map(|(product, units)| Some(facts.prices.get(product)? * units)).sum();
        found.check(sorted(&order.lines) == sorted(lines), seen.id, || format!("operation {} asked for other lines", op.id));
        found.check(order.customer == op.subject, seen.id, || format!("operation {} was somebody else's", op.id));
        found.check(order.total == total && seen.total == total, seen.id, || {
            format!("the total is {} in the store, {} in the answer, and should be {total}", order.total, seen.total)
        });
    }
    for op in facts.ops.iter().filter(|op| matches!(op.ask, Ask::Read(_))) {
        if let (Ask::Read(id), Some(Reply::Refused { reason, .. })) = (&op.ask, op.outcome()) {
            found.check(false, *id, || format!("an acknowledged order was refused to its owner: {reason}"));
        }
    }
    found.done()
}

/// A key has at most one order, and every order has a key that a client sent.
pub(super) fn one_order_per_key(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-2");
    let mut by_key: BTreeMap<(Uuid, &str), BTreeSet<Uuid>> = BTreeMap::new();
    for op in facts.ops.iter().filter(|op| op.places()) {
        let ids = by_key.entry((op.subject, op.key.as_str())).or_default();
        ids.extend(op.tries.iter().filter_map(|(_, reply)| Some(reply.seen()?.id)));
    }
    let mut owners: HashMap<Uuid, &str> = HashMap::new();
    for ((_, key), ids) in &by_key {
        found.check(ids.len() <= 1, ids.first().copied(), || format!("key {key} has {} orders: {ids:?}", ids.len()));
        for id in ids {
            let other = owners.insert(*id, key);
            found.check(other.is_none(), *id, || format!("keys {key} and {} have the same order", other.unwrap_or_default()));
        }
    }
    // those who never heard the outcome may have an order, one for each time they asked
    let mut unheard: HashMap<Uuid, usize> = HashMap::new();
    for (op, _) in placed(facts).filter(|(op, _)| op.outcome().is_none()) {
        *unheard.entry(op.subject).or_default() += 1;
    }
    for order in facts.orders.iter().filter(|order| !owners.contains_key(&order.id)) {
        let left = unheard.entry(order.customer).or_default();
        found.check(*left > 0, order.id, || "an order that no client was told of".to_owned());
        *left = left.saturating_sub(1);
    }
    for (subject, method, key, done) in &facts.keys {
        found.check(*done, None, || format!("key {key} of {subject} for {method} was kept without an outcome"));
    }
    found.done()
}

/// Every operation whose customer stayed was told its outcome in the end, all tellings agree, and they agree with the store.
pub(super) fn unknown_resolves(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-3");
    let exists: HashSet<Uuid> = facts.orders.iter().map(|order| order.id).collect();
    for op in facts.ops.iter().filter(|op| !op.key.is_empty() && !op.repeated && !op.abandoned) {
        let about = op.tries.iter().find_map(|(_, reply)| Some(reply.seen()?.id));
        let last = op.tries.last().map(|(_, reply)| reply);
        found.check(op.outcome().is_some(), about, || format!("operation {} with key {} never had an outcome: {last:?}", op.id, op.key));
        let definite: Vec<&Reply> = op.tries.iter().map(|(_, reply)| reply).filter(|reply| reply.definite()).collect();
        let agree = definite.windows(2).all(|pair| same(pair[0], pair[1]));
        found.check(agree, about, || format!("operation {} had different outcomes: {definite:?}", op.id));
        if let Some(id) = about.filter(|_| op.places()) {
            found.check(exists.contains(&id), id, || format!("operation {} was done, and its order does not exist", op.id));
        }
    }
    found.done()
}

/// Whether two answers say the same, to the byte.
fn same(one: &Reply, other: &Reply) -> bool {
    match (one, other) {
        (Reply::Ok { bytes: one, .. }, Reply::Ok { bytes: other, .. }) => one == other,
        (Reply::Refused { reason: one, metadata: these, .. }, Reply::Refused { reason: other, metadata: those, .. }) => {
            one == other && these == those
        }
        _ => false,
    }
}

/// The same key and request are answered the same; the same key with another request is refused and does nothing.
pub(super) fn replay_identical(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-19");
    let first: HashMap<(Uuid, &str), &Op> = placed(facts).map(|(op, _)| ((op.subject, op.key.as_str()), op)).collect();
    for again in facts.ops.iter().filter(|op| op.repeated) {
        let Some(op) = first.get(&(again.subject, again.key.as_str())) else { continue };
        let (Some(before), Some(after)) = (op.outcome(), again.outcome()) else { continue };
        let about = before.seen().map(|seen| seen.id);
        if again.ask == op.ask {
            found.check(same(before, after), about, || format!("key {} was answered {before:?}, and again {after:?}", op.key));
            let fresh = |reply: &Reply| matches!(reply, Reply::Ok { replayed: false, .. });
            found
                .check(!fresh(before) || !fresh(after), about, || format!("of two answers to key {} none says it is a repetition", op.key));
        } else {
            found.check(after.reason() == Some("IDEMPOTENCY_KEY_REUSED"), about, || {
                format!("key {} was used for another request and answered {after:?}", op.key)
            });
        }
    }
    found.done()
}

/// What belongs to one customer does not exist for another.
pub(super) fn isolation_of_owners(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-22");
    for op in &facts.ops {
        if let (Ask::Pry(id), Some(outcome)) = (&op.ask, op.outcome()) {
            found.check(outcome.reason() == Some("ORDER_NOT_FOUND"), *id, || format!("a stranger asked for it and got {outcome:?}"));
        }
    }
    found.done()
}

/// The version of an order never goes down for those who read one after the other.
pub(super) fn versions_rise(facts: &Facts, found: &mut Finder) {
    let mut reads: HashMap<Uuid, Vec<(std::time::Duration, std::time::Duration, i64)>> = HashMap::new();
    for op in facts.ops.iter().filter(|op| matches!(op.ask, Ask::Read(_))) {
        if let (Some(seen), Some(completed)) = (op.outcome().and_then(Reply::seen), op.completed()) {
            reads.entry(seen.id).or_default().push((op.invoked, completed, seen.version));
        }
    }
    for (id, reads) in reads {
        for (invoked, _, version) in &reads {
            let newest = reads.iter().filter(|(_, completed, _)| completed < invoked).map(|(.., version)| *version).max();
            found.check(newest.is_none_or(|newest| newest <= *version), id, || format!("version {version} was read after {newest:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{PAID, broken, sound};
    use crate::history::{Ask, Reply};

    #[test]
    fn a_lost_order_is_seen() {
        assert!(broken(&sound(), "I-1", |facts| facts.orders.retain(|order| order.id != PAID)));
        assert!(broken(&sound(), "I-1", |facts| facts.orders[0].lines[0].1 += 1));
        assert!(broken(&sound(), "I-1", |facts| facts.orders[0].total += 1));
    }

    #[test]
    fn a_second_order_for_a_key_is_seen() {
        let second = |facts: &mut crate::facts::Facts| {
            let mut again = facts.ops[0].tries[0].clone();
            if let Reply::Ok { seen, bytes, .. } = &mut again.1 {
                seen.id = uuid::Uuid::from_u128(77);
                bytes.push(0);
            }
            facts.ops[0].tries.push(again);
        };
        assert!(broken(&sound(), "I-2", second));
        assert!(broken(&sound(), "I-3", second));
        assert!(broken(&sound(), "I-2", |facts| facts.ops.retain(|op| op.id != 0)));
        assert!(broken(&sound(), "I-2", |facts| facts.keys[0].3 = false));
    }

    #[test]
    fn an_outcome_that_stays_unknown_is_seen() {
        assert!(broken(&sound(), "I-3", |facts| facts.ops[0].tries = vec![(Default::default(), Reply::Unknown("lost".into()))]));
    }

    #[test]
    fn another_answer_to_the_same_key_is_seen() {
        let repeat = |facts: &mut crate::facts::Facts, other: bool| {
            let mut again = facts.ops[0].clone();
            again.repeated = true;
            if let (Reply::Ok { bytes, replayed, .. }, true) = (&mut again.tries[0].1, other) {
                bytes.push(0);
                *replayed = true;
            }
            facts.ops.push(again);
        };
        assert!(broken(&sound(), "I-19", |facts| repeat(facts, true)));
        assert!(broken(&sound(), "I-19", |facts| repeat(facts, false)), "it does not say that it is a repetition");
        let misuse = |facts: &mut crate::facts::Facts| {
            repeat(facts, false);
            facts.ops.last_mut().unwrap().ask = Ask::Place { lines: vec![], token: String::new() };
        };
        assert!(broken(&sound(), "I-19", misuse));
    }

    #[test]
    fn a_stranger_who_sees_an_order_is_seen() {
        let pry = |facts: &mut crate::facts::Facts| {
            let mut op = facts.ops[0].clone();
            op.ask = Ask::Pry(PAID);
            op.key.clear();
            facts.ops.push(op);
        };
        assert!(broken(&sound(), "I-22", pry));
    }

    #[test]
    fn a_version_that_goes_down_is_seen() {
        let read = |facts: &mut crate::facts::Facts| {
            for (at, version) in [(10, 4), (20, 3)] {
                let mut op = facts.ops[0].clone();
                op.ask = Ask::Read(PAID);
                op.key.clear();
                op.invoked = std::time::Duration::from_secs(at);
                op.tries[0].0 = std::time::Duration::from_secs(at + 1);
                if let Reply::Ok { seen, .. } = &mut op.tries[0].1 {
                    seen.version = version;
                }
                facts.ops.push(op);
            }
        };
        assert!(broken(&sound(), "I-18", read));
    }
}
