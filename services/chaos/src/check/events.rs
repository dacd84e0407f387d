//! Events and the plumbing under them: I-14, I-15, I-16, I-17 and I-20.

use super::{Finder, Violation};
use crate::facts::{Facts, Record};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use uuid::Uuid;

/// Which consumer hears which topic, of those that remember each event. The others take events that stand alone; what they make of them
/// is compared as a whole (I-11, I-18).
pub(super) const CONSUMERS: [(&str, &str); 2] = [("ordering.payments", "payments"), ("payment.orders", "orders")];

/// The topics have every event the databases speak of, and no other; orders' events are there to the byte.
pub(super) fn outbox_complete(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-14");
    for (topic, records) in &facts.topics {
        let mut seen: HashMap<Uuid, BTreeMap<i64, Uuid>> = HashMap::new();
        for record in records {
            let other = seen.entry(record.key).or_default().insert(record.sequence, record.event);
            found.check(other.is_none_or(|other| other == record.event), record.key, || {
                format!("topic {topic} has two events number {} of it", record.sequence)
            });
        }
        for ((_, aggregate), version) in facts.versions.iter().filter(|((owner, _), _)| owner == topic) {
            let there = seen.remove(aggregate).unwrap_or_default();
            let missing: Vec<i64> = (1..=*version).filter(|n| !there.contains_key(n)).collect();
            found.check(missing.is_empty(), *aggregate, || format!("topic {topic} lacks the events {missing:?} of {version}"));
            let invented: Vec<i64> = there.keys().copied().filter(|n| !(1..=*version).contains(n)).collect();
            found.check(invented.is_empty(), *aggregate, || format!("topic {topic} has the events {invented:?}, the last is {version}"));
        }
        for aggregate in seen.into_keys() {
            found.check(false, aggregate, || format!("topic {topic} has events of something that does not exist"));
        }
    }
    let stored: HashMap<(Uuid, i64), _> = facts.order_events.iter().map(|event| ((event.order, event.version), event)).collect();
    for record in facts.topics.get("orders").into_iter().flatten() {
        let same =
            stored.get(&(record.key, record.sequence)).is_some_and(|event| event.kind == record.kind && event.payload == record.payload);
        found.check(same, record.key, || format!("event {} in the topic is not the one that was stored", record.sequence));
    }
    found.done()
}

/// Within an aggregate, events come in their order once repeats are left out, all in one partition.
pub(super) fn order_per_aggregate(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-15");
    for (topic, records) in &facts.topics {
        let mut last: HashMap<Uuid, i64> = HashMap::new();
        let mut partition: HashMap<Uuid, i32> = HashMap::new();
        let mut known: HashSet<Uuid> = HashSet::new();
        let mut sorted: Vec<&Record> = records.iter().collect();
        sorted.sort_by_key(|record| record.at);
        for record in sorted {
            let home = *partition.entry(record.key).or_insert(record.at.0);
            found.check(home == record.at.0, record.key, || format!("topic {topic} has it in partitions {home} and {}", record.at.0));
            if !known.insert(record.event) {
                continue;
            }
            let before = last.insert(record.key, record.sequence).unwrap_or(0);
            found.check(record.sequence == before + 1, record.key, || {
                format!("topic {topic} has event {} after {before} at {:?}", record.sequence, record.at)
            });
        }
    }
    found.done()
}

/// A consumer applies an event once, and only events that exist; each order has one payment.
pub(super) fn effect_once(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-16");
    for (consumer, topic) in CONSUMERS {
        let mut last: HashMap<Uuid, i64> = HashMap::new();
        for record in facts.topics.get(topic).into_iter().flatten() {
            let last = last.entry(record.key).or_default();
            *last = record.sequence.max(*last);
        }
        for (_, of, aggregate, applied) in
            facts.plumbing.values().flat_map(|plumbing| &plumbing.applied).filter(|(name, ..)| name == consumer)
        {
            let there = if of == topic { last.get(aggregate).copied().unwrap_or(0) } else { 0 };
            found.check(*applied <= there, *aggregate, || format!("{consumer} applied event {applied} of {there} in topic {of}"));
        }
    }
    for rewind in &facts.rewinds {
        found.check(false, rewind.aggregate, || {
            format!("{} applied event {} of topic {} after {}", rewind.consumer, rewind.to, rewind.topic, rewind.from)
        });
    }
    let mut payments: BTreeMap<Uuid, usize> = facts.orders.iter().map(|order| (order.id, 0)).collect();
    for payment in &facts.payments {
        *payments.entry(payment.order).or_default() += 1;
    }
    let orders: BTreeSet<Uuid> = facts.orders.iter().map(|order| order.id).collect();
    for (order, count) in payments {
        found.check(count == 1 && orders.contains(&order), order, || format!("{count} payments for it"));
    }
    found.done()
}

/// Everything said was applied to its end; nothing waits, nothing was given up.
pub(super) fn nothing_vanishes(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-17");
    for (role, plumbing) in &facts.plumbing {
        for (what, count) in [
            ("events are in the outbox", plumbing.outbox),
            ("events were given up by the relay", plumbing.outbox_dead),
            ("events are parked", plumbing.parked),
            ("dead letters are open", plumbing.dead_letters),
        ] {
            found.check(count == 0, None, || format!("{role}: {count} {what}"));
        }
    }
    let applied: HashMap<(&str, &str, Uuid), i64> = facts
        .plumbing
        .values()
        .flat_map(|plumbing| &plumbing.applied)
        .map(|(consumer, topic, aggregate, last)| ((consumer.as_str(), topic.as_str(), *aggregate), *last))
        .collect();
    for (consumer, topic) in CONSUMERS {
        for ((_, aggregate), version) in facts.versions.iter().filter(|((owner, _), _)| owner == topic) {
            let last = applied.get(&(consumer, topic, *aggregate)).copied().unwrap_or(0);
            found.check(last == *version, *aggregate, || format!("{consumer} applied {last} of {version} events"));
        }
    }
    found.done()
}

/// No session sat idle inside a transaction while faults ran, and none is left in one.
pub(super) fn session_hygiene(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-20");
    for (role, plumbing) in &facts.plumbing {
        let idle = plumbing.idle_in_transaction;
        found.check(idle == 0, None, || format!("{role}: {idle} sessions idle in a transaction"));
    }
    for idle in &facts.idle {
        found.check(idle.seconds <= idle.limit, None, || {
            let (at, limit, query) = (idle.at, idle.limit, idle.query.split_whitespace().collect::<Vec<_>>().join(" "));
            format!("{} was idle in a transaction for {:.1} s of {limit:.1} s at {at:.1?}, after: {query}", idle.session, idle.seconds)
        });
    }
    found.done()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{broken, sound};
    use crate::facts::{Facts, IdleSession, Rewind};
    use std::time::Duration;
    use uuid::Uuid;

    fn orders(facts: &mut Facts) -> &mut Vec<crate::facts::Record> {
        facts.topics.get_mut("orders").unwrap()
    }

    #[test]
    fn a_lost_or_invented_event_is_seen() {
        assert!(broken(&sound(), "I-14", |facts| _ = orders(facts).pop()));
        let ghost = |facts: &mut Facts| {
            let mut ghost = orders(facts)[0].clone();
            ghost.key = Uuid::from_u128(99);
            ghost.event = Uuid::from_u128(98);
            orders(facts).push(ghost);
        };
        assert!(broken(&sound(), "I-14", ghost));
        assert!(broken(&sound(), "I-14", |facts| orders(facts)[0].payload.push(1)));
        let twin = |facts: &mut Facts| {
            let mut twin = orders(facts)[0].clone();
            twin.event = Uuid::from_u128(98);
            orders(facts).push(twin);
        };
        assert!(broken(&sound(), "I-14", twin));
    }

    #[test]
    fn events_out_of_order_are_seen() {
        let swap = |facts: &mut Facts| {
            let (one, two) = (orders(facts)[0].at, orders(facts)[1].at);
            orders(facts)[0].at = two;
            orders(facts)[1].at = one;
        };
        assert!(broken(&sound(), "I-15", swap));
        assert!(broken(&sound(), "I-15", |facts| orders(facts)[1].at.0 += 1));
    }

    #[test]
    fn a_repeated_event_is_no_fault_of_order() {
        let mut facts = sound();
        let mut again = orders(&mut facts)[0].clone();
        again.at.1 = 1000;
        orders(&mut facts).push(again);
        assert_eq!(super::super::all(&facts), vec![]);
    }

    #[test]
    fn an_event_applied_twice_or_out_of_nothing_is_seen() {
        let ghost = |facts: &mut Facts| facts.plumbing.get_mut("payment").unwrap().applied[0].3 += 1;
        assert!(broken(&sound(), "I-16", ghost));
        let again = Rewind { consumer: "payment.orders".into(), topic: "orders".into(), aggregate: Uuid::from_u128(1), from: 2, to: 1 };
        assert!(broken(&sound(), "I-16", |facts| facts.rewinds.push(again)));
        assert!(broken(&sound(), "I-16", |facts| facts.payments.push(facts.payments[0].clone())));
        assert!(broken(&sound(), "I-16", |facts| _ = facts.payments.pop()));
    }

    #[test]
    fn what_waits_or_was_given_up_is_seen() {
        assert!(broken(&sound(), "I-17", |facts| facts.plumbing.get_mut("payment").unwrap().parked = 1));
        assert!(broken(&sound(), "I-17", |facts| facts.plumbing.get_mut("payment").unwrap().dead_letters = 1));
        assert!(broken(&sound(), "I-17", |facts| facts.plumbing.get_mut("ordering").unwrap().outbox = 1));
        assert!(broken(&sound(), "I-17", |facts| facts.plumbing.get_mut("payment").unwrap().applied[0].3 -= 1));
    }

    #[test]
    fn a_session_left_in_a_transaction_is_seen() {
        assert!(broken(&sound(), "I-20", |facts| facts.plumbing.get_mut("payment").unwrap().idle_in_transaction = 1));
        let idle =
            |seconds| IdleSession { session: "mercato-payment".into(), seconds, limit: 1.0, query: "select".into(), at: Duration::ZERO };
        assert!(broken(&sound(), "I-20", |facts| facts.idle.push(idle(1.5))));
        let mut within = sound();
        within.idle.push(idle(0.9));
        assert_eq!(super::super::all(&within), vec![]);
    }
}
