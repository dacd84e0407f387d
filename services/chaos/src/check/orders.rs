//! Orders: I-10, I-11, I-12, I-13 and I-18. The fold here is written anew, so that a mistake in ordering's own does not hide itself.

use super::{Finder, Violation, clients::versions_rise};
use crate::facts::{Facts, OrderEvent, ProviderEntry};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// Every order has come to an end, and one that needs a person has exactly one open case.
pub(super) fn saga_terminates(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-10");
    for order in &facts.orders {
        let cases = facts.open_cases.iter().filter(|case| **case == order.id).count();
        let ended = match order.status.as_str() {
            "PAID" | "COMPLETED" => true,
            "CANCELLED" => !order.open && !order.stock_held,
            "NEEDS_OPERATOR" => cases == 1,
            _ => false,
        };
        found.check(ended, order.id, || {
            format!(
                "the order is {}/{} (open: {}, stock held: {}) with {cases} cases",
                order.status, order.payment_status, order.open, order.stock_held
            )
        });
    }
    found.done()
}

/// A cancelled order holds no stock and no money.
pub(super) fn compensation_complete(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-11");
    let holds: HashMap<Uuid, &str> = facts.holds.iter().map(|hold| (hold.order, hold.status.as_str())).collect();
    let provider = by_order(&facts.provider);
    for order in facts.orders.iter().filter(|order| order.status == "CANCELLED") {
        let hold = holds.get(&order.id).copied();
        found.check(!matches!(hold, Some("ACTIVE" | "COMMITTED")), order.id, || format!("cancelled, and its hold is {hold:?}"));
        let (held, kept) = money(provider.get(&order.id).map_or(&[], Vec::as_slice));
        found.check(held == 0, order.id, || format!("cancelled, and the provider still holds {held}"));
        found.check(kept == 0, order.id, || format!("cancelled, and {kept} are not given back"));
    }
    found.done()
}

fn by_order(entries: &[ProviderEntry]) -> HashMap<Uuid, Vec<&ProviderEntry>> {
    let mut by_order: HashMap<Uuid, Vec<&ProviderEntry>> = HashMap::new();
    for entry in entries {
        if let Some(order) = entry.order() {
            by_order.entry(order).or_default().push(entry);
        }
    }
    by_order
}

/// What is held and what was taken and kept, in minor units.
fn money(entries: &[&ProviderEntry]) -> (i64, i64) {
    let mut held: BTreeMap<&str, i64> = BTreeMap::new();
    let mut kept = 0;
    for entry in entries {
        let held = held.entry(&entry.reference).or_default();
        match entry.kind.as_str() {
            "authorized" => *held += entry.amount_minor,
            "captured" => {
                *held -= entry.amount_minor;
                kept += entry.amount_minor;
            }
            "voided" => *held = 0,
            "refunded" => kept -= entry.amount_minor,
            _ => {}
        }
    }
    (held.values().sum(), kept)
}

/// An order that stands has its stock committed and its money held or taken; a paid one has it taken.
pub(super) fn no_step_out_of_order(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-12");
    let holds: HashMap<Uuid, &str> = facts.holds.iter().map(|hold| (hold.order, hold.status.as_str())).collect();
    let provider = by_order(&facts.provider);
    for order in facts.orders.iter().filter(|order| matches!(order.status.as_str(), "CONFIRMED" | "PAID")) {
        let hold = holds.get(&order.id).copied();
        found.check(hold == Some("COMMITTED"), order.id, || format!("{} while its hold is {hold:?}", order.status));
        let entries = provider.get(&order.id).map_or(&[][..], Vec::as_slice);
        let sum = |kind: &str| entries.iter().filter(|entry| entry.kind == kind).map(|entry| entry.amount_minor).sum::<i64>();
        let (authorized, captured) = (sum("authorized"), sum("captured"));
        found.check(authorized >= order.total, order.id, || format!("{authorized} authorised of {}", order.total));
        if order.status == "PAID" {
            found.check(captured == order.total, order.id, || format!("paid, and {captured} of {} captured", order.total));
        }
    }
    for (order, stream) in streams(facts) {
        let first = |kind: &str| stream.iter().position(|event| event.kind == kind).unwrap_or(usize::MAX);
        let early = first("order.stock_released") < first("order.cancelled") && holds.get(&order) == Some(&"RELEASED");
        found.check(!early, order, || "its stock was given back before it was cancelled".to_owned());
    }
    found.done()
}

/// What an order is after its events: status and payment status.
type Fold = (&'static str, &'static str);

/// One more event; `None` when it may not happen there.
fn step((status, payment): Fold, kind: &str) -> Option<Fold> {
    let undecided = matches!(payment, "PAYMENT_PENDING" | "PAYMENT_UNKNOWN");
    Some(match (kind, status) {
        ("order.payment_authorized", "PENDING") if undecided => (status, "PAYMENT_AUTHORIZED"),
        ("order.payment_unknown", "PENDING") if payment == "PAYMENT_PENDING" => (status, "PAYMENT_UNKNOWN"),
        ("order.confirmed", "PENDING") if payment == "PAYMENT_AUTHORIZED" => ("CONFIRMED", payment),
        ("order.payment_processed", "CONFIRMED") => ("PAID", "PAYMENT_PROCESSED"),
        ("order.payment_failed", "PENDING" | "CANCELLED") => (status, "PAYMENT_FAILED"),
        ("order.cancelled", "PENDING") => ("CANCELLED", payment),
        ("order.payment_returned", "CANCELLED") => (status, "RETURNED"),
        ("order.payment_returned", "PAID" | "COMPLETED") => (status, "RETURNED"),
        ("order.stock_released", "CANCELLED" | "PENDING") => (status, payment),
        ("order.completed", "PAID") => ("COMPLETED", payment),
        ("order.failed", "PENDING" | "CONFIRMED" | "CANCELLED") => ("NEEDS_OPERATOR", payment),
        _ => return None,
    })
}

fn streams(facts: &Facts) -> BTreeMap<Uuid, Vec<&OrderEvent>> {
    let mut streams: BTreeMap<Uuid, Vec<&OrderEvent>> = BTreeMap::new();
    for event in &facts.order_events {
        streams.entry(event.order).or_default().push(event);
    }
    for stream in streams.values_mut() {
        stream.sort_by_key(|event| event.version);
    }
    streams
}

fn fold(stream: &[&OrderEvent]) -> Result<Fold, String> {
    let mut state = match stream.first() {
        Some(first) if first.kind == "order.created" => ("PENDING", "PAYMENT_PENDING"),
        first => return Err(format!("the first event is {:?}", first.map(|event| event.kind.as_str()))),
    };
    for event in &stream[1..] {
        state = step(state, &event.kind).ok_or_else(|| format!("event {} `{}` while {state:?}", event.version, event.kind))?;
    }
    Ok(state)
}

/// The events of an order are numbered without gap or repeat, each may follow the one before, and the order is what they make of it.
pub(super) fn stream_sound(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-13");
    let streams = streams(facts);
    let orders: HashMap<Uuid, _> = facts.orders.iter().map(|order| (order.id, order)).collect();
    for (id, stream) in &streams {
        let numbered = stream.iter().map(|event| event.version).eq(1..=stream.len() as i64);
        found.check(numbered, *id, || format!("versions {:?}", stream.iter().map(|event| event.version).collect::<Vec<_>>()));
        found.check(orders.contains_key(id), *id, || "events without an order".to_owned());
        if let Err(error) = fold(stream) {
            found.check(false, *id, || error);
        }
    }
    for order in &facts.orders {
        let events = streams.get(&order.id).map_or(0, Vec::len) as i64;
        found.check(events == order.version, order.id, || format!("version {} with {events} events", order.version));
    }
    found.done()
}

/// The stored order is the fold of its events; what the catalog shows is what inventory has; no reader saw time go back.
pub(super) fn projections(facts: &Facts) -> Vec<Violation> {
    let mut found = Finder::new("I-18");
    let streams = streams(facts);
    for order in &facts.orders {
        let Some(Ok((status, payment))) = streams.get(&order.id).map(|stream| fold(stream)) else { continue };
        let returned = payment == "RETURNED" && matches!(order.payment_status.as_str(), "PAYMENT_VOIDED" | "PAYMENT_REFUNDED");
        let fits = order.status == status && (order.payment_status == payment || returned);
        found.check(fits, order.id, || {
            format!("stored as {}/{}, and its events make {status}/{payment}", order.status, order.payment_status)
        });
        found.check(order.snapshot == (order.status.clone(), order.version), order.id, || {
            format!("the snapshot is {:?}, the row {}/{}", order.snapshot, order.status, order.version)
        });
    }
    let mut available: BTreeMap<Uuid, i64> = BTreeMap::new();
    for stock in &facts.stock {
        *available.entry(stock.product).or_default() += stock.available;
    }
    for (product, units) in available {
        let version = facts.versions.get(&("inventory".to_owned(), product)).copied().unwrap_or(0);
        let shown = facts.shown_stock.get(&product).copied();
        found.check(shown == Some((units, version)), product, || {
            format!("inventory has {units} at version {version}, the catalog shows {shown:?}")
        });
    }
    versions_rise(facts, &mut found);
    found.done()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{CANCELLED, PAID, PRODUCT, broken, sound};

    #[test]
    fn an_order_that_does_not_end_is_seen() {
        assert!(broken(&sound(), "I-10", |facts| facts.orders[0].status = "CONFIRMED".into()));
        assert!(broken(&sound(), "I-10", |facts| facts.orders[1].open = true));
        assert!(broken(&sound(), "I-10", |facts| facts.orders[0].status = "NEEDS_OPERATOR".into()));
    }

    #[test]
    fn a_cancelled_order_that_keeps_something_is_seen() {
        assert!(broken(&sound(), "I-11", |facts| facts.holds[1].status = "COMMITTED".into()));
        assert!(broken(&sound(), "I-11", |facts| facts.provider.retain(|entry| entry.kind != "voided")));
        let captured = |facts: &mut crate::facts::Facts| {
            let mut entry = facts.provider.iter().find(|entry| entry.kind == "captured").unwrap().clone();
            entry.reference = CANCELLED.to_string();
            facts.provider.push(entry);
        };
        assert!(broken(&sound(), "I-11", captured));
    }

    #[test]
    fn a_step_before_its_time_is_seen() {
        assert!(broken(&sound(), "I-12", |facts| facts.holds[0].status = "ACTIVE".into()));
        assert!(broken(&sound(), "I-12", |facts| facts.provider.retain(|entry| entry.kind != "captured")));
        assert!(broken(&sound(), "I-12", |facts| facts.provider.retain(|entry| entry.order() != Some(PAID))));
        let early = |facts: &mut crate::facts::Facts| {
            let cancelled = facts.order_events.iter().position(|event| event.kind == "order.cancelled").unwrap();
            facts.order_events[cancelled - 1].kind = "order.stock_released".into();
        };
        assert!(broken(&sound(), "I-12", early));
    }

    #[test]
    fn a_stream_with_a_hole_or_a_wrong_turn_is_seen() {
        assert!(broken(&sound(), "I-13", |facts| _ = facts.order_events.remove(1)));
        assert!(broken(&sound(), "I-13", |facts| facts.order_events[1].kind = "order.payment_processed".into()));
        assert!(broken(&sound(), "I-13", |facts| facts.orders[0].version += 1));
    }

    #[test]
    fn a_projection_that_differs_is_seen() {
        assert!(broken(&sound(), "I-18", |facts| facts.orders[0].payment_status = "PAYMENT_AUTHORIZED".into()));
        assert!(broken(&sound(), "I-18", |facts| facts.orders[0].snapshot.1 -= 1));
        assert!(broken(&sound(), "I-18", |facts| facts.shown_stock.entry(PRODUCT).or_default().0 += 1));
    }
}
