//! Units: I-4, I-5 and I-6.

use super::{Finder, Violation};
use crate::facts::Facts;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// What is there is what the ledger says; what can be had is that less what is held; nothing is below zero.
pub(super) fn conservation(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-4");
    let active: HashMap<Uuid, bool> =
        facts.holds.iter().map(|hold| (hold.order, matches!(hold.status.as_str(), "ACTIVE" | "COMMITTED"))).collect();
    let mut shelves: BTreeMap<(Uuid, &str), [i64; 3]> = BTreeMap::new();
    for change in &facts.stock_ledger {
        let sums = shelves.entry((change.product, &change.warehouse)).or_default();
        sums[0] += change.level;
        sums[1] += change.available;
    }
    for line in facts.hold_lines.iter().filter(|line| active.get(&line.order).copied().unwrap_or(true)) {
        shelves.entry((line.product, &line.warehouse)).or_default()[2] += line.units;
    }
    for stock in &facts.stock {
        let [level, available, held] = shelves.remove(&(stock.product, stock.warehouse.as_str())).unwrap_or_default();
        found.check(stock.available >= 0, stock.product, || format!("{} units can be had", stock.available));
        found.check(stock.on_hand == level, stock.product, || format!("{} units are there, {level} by the ledger", stock.on_hand));
        found.check(stock.available == available, stock.product, || {
            format!("{} units can be had, {available} by the ledger", stock.available)
        });
        found.check(stock.available == stock.on_hand - held, stock.product, || {
            format!("{} of {} units can be had while {held} are held", stock.available, stock.on_hand)
        });
    }
    for ((product, warehouse), sums) in shelves {
        found.check(sums == [0; 3], product, || format!("no stock in {warehouse}, but ledger and holds say {sums:?}"));
    }
    found.done()
}

/// No more units are sold than there were.
pub(super) fn no_oversell(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-5");
    let mut sold: BTreeMap<Uuid, i64> = BTreeMap::new();
    for order in facts.orders.iter().filter(|order| matches!(order.status.as_str(), "CONFIRMED" | "PAID" | "COMPLETED")) {
        for (product, units) in &order.lines {
            *sold.entry(*product).or_default() += units;
        }
    }
    for (product, units) in sold {
        let had = facts.initial.get(&product).copied().unwrap_or(0);
        found.check(units <= had, product, || format!("{units} units are sold of {had}"));
    }
    found.done()
}

/// A hold ends once, not before its time, and gives back exactly what it took.
pub(super) fn one_ending(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-6");
    for hold in facts.holds.iter().filter(|hold| hold.early) {
        found.check(false, hold.order, || "the hold ran out before its time".to_owned());
    }
    let mut steps: HashMap<Uuid, Vec<(i64, &str)>> = HashMap::new();
    for record in facts.topics.get("inventory").into_iter().flatten().filter(|record| record.kind != "inventory.updated") {
        let steps = steps.entry(record.key).or_default();
        if !steps.contains(&(record.sequence, record.kind.as_str())) {
            steps.push((record.sequence, &record.kind));
        }
    }
    let (reserved, committed, released) = ("inventory.reserved", "inventory.committed", "inventory.released");
    let sound: [&[&str]; 4] = [&[reserved], &[reserved, committed], &[reserved, released], &[reserved, committed, released]];
    for (order, mut steps) in steps {
        steps.sort_unstable();
        let kinds: Vec<&str> = steps.iter().map(|(_, kind)| *kind).collect();
        // a release that came before its reservation leaves a hold that was never active
        found.check(sound.contains(&kinds.as_slice()) || kinds == [released], order, || format!("the hold went {kinds:?}"));
    }
    let ended: HashMap<Uuid, bool> =
        facts.holds.iter().map(|hold| (hold.order, matches!(hold.status.as_str(), "RELEASED" | "EXPIRED"))).collect();
    let mut moved: BTreeMap<(Uuid, Uuid, &str), (i64, usize)> = BTreeMap::new();
    for change in &facts.stock_ledger {
        let Some(order) = change.order else { continue };
        let entry = moved.entry((order, change.product, &change.warehouse)).or_default();
        entry.0 += change.available;
        entry.1 += usize::from(matches!(change.cause.as_str(), "release" | "expire"));
    }
    for line in &facts.hold_lines {
        let (sum, returns) = moved.remove(&(line.order, line.product, line.warehouse.as_str())).unwrap_or_default();
        let over = ended.get(&line.order).copied().unwrap_or(false);
        let wanted = if over { (0, 1) } else { (-line.units, 0) };
        found.check((sum, returns) == wanted, line.order, || {
            format!("{} units were held, {} are still gone after {returns} returns (ended: {over})", line.units, -sum)
        });
    }
    for ((order, product, _), (sum, _)) in moved {
        found.check(sum == 0, order, || format!("{} units of {product} moved without a line of a hold", -sum));
    }
    found.done()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{PRODUCT, broken, sound};

    #[test]
    fn units_that_vanish_or_appear_are_seen() {
        assert!(broken(&sound(), "I-4", |facts| facts.stock[0].available += 1));
        assert!(broken(&sound(), "I-4", |facts| facts.stock[0].on_hand -= 1));
        assert!(broken(&sound(), "I-4", |facts| facts.stock.clear()));
        assert!(broken(&sound(), "I-4", |facts| facts.holds[0].status = "RELEASED".into()));
    }

    #[test]
    fn more_sold_than_there_was_is_seen() {
        assert!(broken(&sound(), "I-5", |facts| _ = facts.initial.insert(PRODUCT, 1)));
    }

    #[test]
    fn a_hold_that_ends_twice_is_seen() {
        let again = |facts: &mut crate::facts::Facts| {
            let mut change = facts.stock_ledger.iter().find(|change| change.cause == "release").unwrap().clone();
            change.cause = "expire".into();
            facts.stock_ledger.push(change);
        };
        assert!(broken(&sound(), "I-6", again));
        assert!(broken(&sound(), "I-6", |facts| facts.holds[0].early = true));
        let released_then_committed = |facts: &mut crate::facts::Facts| {
            let records = facts.topics.get_mut("inventory").unwrap();
            let mut late = records.iter().find(|record| record.kind == "inventory.released").unwrap().clone();
            late.kind = "inventory.committed".into();
            late.sequence += 1;
            records.push(late);
        };
        assert!(broken(&sound(), "I-6", released_then_committed));
    }
}
