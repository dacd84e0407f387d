//! Everything the checkers judge, as plain data: what the databases, the topics, the provider and the clients say.

use crate::history::Op;
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;

/// A row of `orders`, with its snapshot taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderRow {
    /// The order.
    pub id: Uuid,
    /// Whose it is.
    pub customer: Uuid,
    /// `orders.status`, by its name in the contract.
    pub status: String,
    /// `orders.payment_status`, by its name in the contract.
    pub payment_status: String,
    /// Why it was cancelled or is stuck, from the snapshot.
    pub reason: String,
    /// Whether something is still to be done.
    pub open: bool,
    /// Whether stock is still held, as ordering believes.
    pub stock_held: bool,
    /// The number of its latest event.
    pub version: i64,
    /// Product and units of each line, from the snapshot.
    pub lines: Vec<(Uuid, i64)>,
    /// The total in minor units, from the snapshot.
    pub total: i64,
    /// Status and version as the snapshot has them.
    pub snapshot: (String, i64),
}

/// A row of `order_event`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderEvent {
    /// The order.
    pub order: Uuid,
    /// Its number.
    pub version: i64,
    /// Its dotted name.
    pub kind: String,
    /// Its message.
    pub payload: Vec<u8>,
}

/// A row of `reservation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The order.
    pub order: Uuid,
    /// ACTIVE, COMMITTED, RELEASED or EXPIRED.
    pub status: String,
    /// How many states it had.
    pub version: i64,
    /// Whether it ran out before its time, by the database's clock.
    pub early: bool,
}

/// Units of a product in a warehouse that an order holds or held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldLine {
    /// The order.
    pub order: Uuid,
    /// The product.
    pub product: Uuid,
    /// The warehouse.
    pub warehouse: String,
    /// Units.
    pub units: i64,
}

/// A row of `stock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stock {
    /// The product.
    pub product: Uuid,
    /// The warehouse.
    pub warehouse: String,
    /// Units there.
    pub on_hand: i64,
    /// Units promised to nobody.
    pub available: i64,
}

/// A row of `stock_ledger`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockChange {
    /// The product.
    pub product: Uuid,
    /// The warehouse.
    pub warehouse: String,
    /// Change of what is there.
    pub level: i64,
    /// Change of what can be had.
    pub available: i64,
    /// set, reserve, release, expire or ship.
    pub cause: String,
    /// The order behind it.
    pub order: Option<Uuid>,
}

/// A row of `payment`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentRow {
    /// The order.
    pub order: Uuid,
    /// Where it stands.
    pub status: String,
    /// How much, in minor units.
    pub amount: i64,
    /// How much of it is ours.
    pub captured: i64,
    /// How much was given back.
    pub refunded: i64,
    /// The number of its latest event.
    pub version: i64,
}

/// A line of payment's double-entry ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerLine {
    /// The transaction.
    pub tx: Uuid,
    /// The step that posted it: authorize, capture, void or refund.
    pub step: String,
    /// The account.
    pub account: String,
    /// D or C.
    pub side: String,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// The provider's idempotency key of the same thing.
    pub provider_ref: String,
}

/// A line of the provider's own ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProviderEntry {
    /// Its number.
    pub sequence: u64,
    /// authorized, declined, soft_declined, captured, voided, refunded or refused.
    pub kind: String,
    /// Our reference: the order, with `.n` for a later attempt.
    pub reference: String,
    /// The idempotency key.
    pub key: String,
    /// Minor units.
    pub amount_minor: i64,
    /// ISO 4217 code.
    pub currency: String,
}

impl ProviderEntry {
    /// The order it is for, when the reference is one of ours.
    pub fn order(&self) -> Option<Uuid> {
        self.reference.split('.').next()?.parse().ok()
    }
}

/// A record of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Partition and offset.
    pub at: (i32, i64),
    /// The aggregate.
    pub key: Uuid,
    /// The event's id.
    pub event: Uuid,
    /// Its dotted name.
    pub kind: String,
    /// Its number within the aggregate.
    pub sequence: i64,
    /// Its message.
    pub payload: Vec<u8>,
}

/// What one role's database says about the chassis' tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plumbing {
    /// Events not sent yet.
    pub outbox: i64,
    /// Events given up by the relay.
    pub outbox_dead: i64,
    /// Events that wait because an earlier one could not be applied.
    pub parked: i64,
    /// Events given up.
    pub dead_letters: i64,
    /// Consumer, topic, aggregate and last applied sequence.
    pub applied: Vec<(String, String, Uuid, i64)>,
    /// Sessions that had been idle in a transaction for more than four seconds.
    pub idle_in_transaction: i64,
}

/// A session that sat idle inside a transaction while faults ran.
#[derive(Debug, Clone, PartialEq)]
pub struct IdleSession {
    /// The name of the session: `mercato-` and the role.
    pub session: String,
    /// How long.
    pub seconds: f64,
    /// How long it may.
    pub limit: f64,
    /// Its last statement.
    pub query: String,
    /// When, since the beginning of the run.
    pub at: Duration,
}

/// A secret where it must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// What it is.
    pub what: String,
    /// Where it was found.
    pub place: String,
    /// How often.
    pub times: usize,
}

/// A consumer that applied an event at or before one it had applied.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Rewind {
    /// The consumer.
    pub consumer: String,
    /// Without prefix.
    pub topic: String,
    /// The aggregate.
    pub aggregate: Uuid,
    /// The number of the event it had applied last.
    pub from: i64,
    /// The number of the event it applied then.
    pub to: i64,
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What clients asked and heard.
    pub ops: Vec<Op>,
    /// Units each product of the run had at first.
    pub initial: BTreeMap<Uuid, i64>,
    /// Price of each product of the run, in minor units.
    pub prices: BTreeMap<Uuid, i64>,
    /// Ordering's orders.
    pub orders: Vec<OrderRow>,
    /// Ordering's events, by order and version.
    pub order_events: Vec<OrderEvent>,
    /// Subject, method, key and whether there is an outcome, of ordering's keys.
    pub keys: Vec<(String, String, String, bool)>,
    /// Inventory's holds.
    pub holds: Vec<Hold>,
    /// Their lines.
    pub hold_lines: Vec<HoldLine>,
    /// Inventory's stock.
    pub stock: Vec<Stock>,
    /// Every change of it.
    pub stock_ledger: Vec<StockChange>,
    /// Payment's payments.
    pub payments: Vec<PaymentRow>,
    /// Payment's ledger.
    pub ledger: Vec<LedgerLine>,
    /// The orders of open cases, one entry a case.
    pub open_cases: Vec<Uuid>,
    /// Attempts whose outcome is not known.
    pub attempts_in_doubt: Vec<(Uuid, String)>,
    /// Topic and aggregate to the number of its latest event, by the owners' tables.
    pub versions: BTreeMap<(String, Uuid), i64>,
    /// What catalog believes can be had of a product, and the version it heard.
    pub shown_stock: BTreeMap<Uuid, (i64, i64)>,
    /// The whole content of each topic, each partition in its order.
    pub topics: BTreeMap<String, Vec<Record>>,
    /// The provider's whole ledger.
    pub provider: Vec<ProviderEntry>,
    /// The chassis' tables, by role.
    pub plumbing: BTreeMap<String, Plumbing>,
    /// Sessions that sat idle inside a transaction while faults ran.
    pub idle: Vec<IdleSession>,
    /// Secrets where they must not be.
    pub leaks: Vec<Leak>,
    /// Events that were applied again; noted by triggers that only some runs set.
    pub rewinds: Vec<Rewind>,
}
