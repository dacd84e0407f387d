//! Facts in which everything is right, to plant faults in.

use super::{CHECKERS, all};
use crate::{
    facts::{Facts, Hold, HoldLine, LedgerLine, OrderEvent, OrderRow, PaymentRow, Plumbing, ProviderEntry, Record, Stock, StockChange},
    history::{Ask, Op, Reply, Seen, Way},
};
use std::time::Duration;
use uuid::Uuid;

/// The product.
pub const PRODUCT: Uuid = Uuid::from_u128(1);
/// An order of two units that is paid.
pub const PAID: Uuid = Uuid::from_u128(2);
/// An order of one unit that was authorised and cancelled.
pub const CANCELLED: Uuid = Uuid::from_u128(3);
const ANNA: Uuid = Uuid::from_u128(4);

/// Whether the invariant is violated once the fault is planted. The facts must be sound before.
pub fn broken(sound: &Facts, invariant: &str, fault: impl FnOnce(&mut Facts)) -> bool {
    assert_eq!(all(sound), vec![], "the facts are sound before");
    let mut facts = sound.clone();
    fault(&mut facts);
    let (_, check) = CHECKERS.iter().find(|(name, _)| *name == invariant).expect("an invariant");
    !check(&facts).is_empty()
}

/// Two orders and everything that follows from them.
pub fn sound() -> Facts {
    let mut facts = Facts { initial: [(PRODUCT, 10)].into(), prices: [(PRODUCT, 500)].into(), ..Facts::default() };
    let stream = |end: &[&'static str]| [&["order.created", "order.payment_authorized"], end].concat();
    order(&mut facts, PAID, 2, "PAID", "PAYMENT_PROCESSED", &stream(&["order.confirmed", "order.payment_processed"]));
    let ended = stream(&["order.cancelled", "order.stock_released", "order.payment_returned"]);
    order(&mut facts, CANCELLED, 1, "CANCELLED", "PAYMENT_VOIDED", &ended);
    hold(&mut facts, PAID, 2, "COMMITTED", &["inventory.reserved", "inventory.committed"]);
    hold(&mut facts, CANCELLED, 1, "RELEASED", &["inventory.reserved", "inventory.released"]);
    shelf(&mut facts);
    pay(&mut facts, PAID, 1000, "CAPTURED", &["authorize", "capture"], &["payment.initiated", "payment.authorized", "payment.processed"]);
    pay(&mut facts, CANCELLED, 500, "VOIDED", &["authorize", "void"], &["payment.initiated", "payment.authorized", "payment.voided"]);
    for role in ["ordering", "inventory", "payment", "catalog", "customer"] {
        facts.plumbing.insert(role.into(), Plumbing::default());
    }
    for (consumer, topic) in super::events::CONSUMERS {
        let role = consumer.split('.').next().expect("a role");
        let plumbing = facts.plumbing.get_mut(role).expect("a role");
        let versions = facts.versions.iter().filter(|((owner, _), _)| owner == topic);
        plumbing.applied.extend(versions.map(|((_, id), version)| (consumer.to_owned(), topic.to_owned(), *id, *version)));
    }
    facts
}

fn publish(facts: &mut Facts, topic: &str, key: Uuid, kinds: &[&str]) {
    let records = facts.topics.entry(topic.into()).or_default();
    for (sequence, kind) in (1..).zip(kinds) {
        let at = (0, i64::try_from(records.len()).expect("few records"));
        let event = Uuid::from_u128(1000 + key.as_u128() * 100 + 10_000 * topic.len() as u128 + sequence as u128);
        records.push(Record { at, key, event, kind: (*kind).into(), sequence, payload: vec![1] });
    }
    facts.versions.insert((topic.into(), key), kinds.len() as i64);
}

fn order(facts: &mut Facts, id: Uuid, units: i64, status: &str, payment: &str, kinds: &[&'static str]) {
    let version = kinds.len() as i64;
    let (lines, total) = (vec![(PRODUCT, units)], 500 * units);
    facts.orders.push(OrderRow {
        id,
        customer: ANNA,
        status: status.into(),
        payment_status: payment.into(),
        reason: String::new(),
        open: false,
        stock_held: status != "CANCELLED",
        version,
        lines: lines.clone(),
        total,
        snapshot: (status.into(), version),
    });
    let events = (1..).zip(kinds).map(|(version, kind)| OrderEvent { order: id, version, kind: (*kind).into(), payload: vec![1] });
    facts.order_events.extend(events);
    publish(facts, "orders", id, kinds);
    let seen = Seen { id, customer: ANNA, status: "PENDING".into(), version: 1, lines: lines.clone(), total };
    let key = format!("key-{id}");
    facts.keys.push((ANNA.to_string(), "PlaceOrder".into(), key.clone(), true));
    facts.ops.push(Op {
        id: facts.ops.len(),
        subject: ANNA,
        way: Way::Rest,
        key,
        ask: Ask::Place { lines, token: String::new() },
        invoked: Duration::ZERO,
        tries: vec![(Duration::from_secs(1), Reply::Ok { seen, bytes: vec![1], replayed: false })],
        repeated: false,
        abandoned: false,
    });
}

fn hold(facts: &mut Facts, order: Uuid, units: i64, status: &str, kinds: &[&str]) {
    facts.holds.push(Hold { order, status: status.into(), version: kinds.len() as i64, early: false });
    facts.hold_lines.push(HoldLine { order, product: PRODUCT, warehouse: "main".into(), units });
    publish(facts, "inventory", order, kinds);
    let change = |available, cause: &str| StockChange {
        product: PRODUCT,
        warehouse: "main".into(),
        level: 0,
        available,
        cause: cause.into(),
        order: Some(order),
    };
    facts.stock_ledger.push(change(-units, "reserve"));
    if status == "RELEASED" {
        facts.stock_ledger.push(change(units, "release"));
    }
}

fn shelf(facts: &mut Facts) {
    let set = StockChange { product: PRODUCT, warehouse: "main".into(), level: 10, available: 10, cause: "set".into(), order: None };
    facts.stock_ledger.push(set);
    facts.stock.push(Stock { product: PRODUCT, warehouse: "main".into(), on_hand: 10, available: 8 });
    publish(facts, "inventory", PRODUCT, &["inventory.updated"; 4]);
    facts.shown_stock.insert(PRODUCT, (8, 4));
}

fn pay(facts: &mut Facts, order: Uuid, amount: i64, status: &str, steps: &[&str], kinds: &[&str]) {
    let captured = if status == "CAPTURED" { amount } else { 0 };
    facts.payments.push(PaymentRow { order, status: status.into(), amount, captured, refunded: 0, version: kinds.len() as i64 });
    publish(facts, "payments", order, kinds);
    for step in steps {
        let key = format!("{order}:{step}:1");
        let kind = match *step {
            "authorize" => "authorized",
            "capture" => "captured",
            _ => "voided",
        };
        facts.provider.push(ProviderEntry {
            sequence: facts.provider.len() as u64 + 1,
            kind: kind.into(),
            reference: order.to_string(),
            key: key.clone(),
            amount_minor: amount,
            currency: "EUR".into(),
        });
        for (side, account) in [("D", "provider.hold"), ("C", "customer.hold")] {
            facts.ledger.push(LedgerLine {
                tx: Uuid::from_u128(order.as_u128() * 10 + step.len() as u128),
                step: (*step).into(),
                account: account.into(),
                side: side.into(),
                amount,
                currency: "EUR".into(),
                provider_ref: key.clone(),
            });
        }
    }
}
