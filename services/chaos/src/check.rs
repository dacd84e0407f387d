//! The invariants, each a pure function over the facts. They hold at quiescence; those that hold always hold then as well.

mod clients;
mod events;
mod money;
mod orders;
mod secrets;
mod stock;
#[cfg(test)]
mod testing;

use crate::facts::Facts;
use std::{collections::BTreeSet, fmt};
use uuid::Uuid;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant, such as `I-8`.
    pub invariant: &'static str,
    /// What is wrong, with the numbers.
    pub what: String,
    /// The aggregate it is about: an order, a product.
    pub about: Option<Uuid>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)?;
        self.about.map_or(Ok(()), |id| write!(f, " ({id})"))
    }
}

/// Collects violations of one invariant.
pub(crate) struct Finder {
    invariant: &'static str,
    found: Vec<Violation>,
}

impl Finder {
    pub(crate) fn new(invariant: &'static str) -> Self {
        Self { invariant, found: Vec::new() }
    }

    /// Notes a violation unless `holds`.
    pub(crate) fn check(&mut self, holds: bool, about: impl Into<Option<Uuid>>, what: impl FnOnce() -> String) {
        if !holds {
            self.found.push(Violation { invariant: self.invariant, what: what(), about: about.into() });
        }
    }

    pub(crate) fn done(self) -> Vec<Violation> {
        self.found
    }
}

type Checker = fn(&Facts) -> Vec<Violation>;

/// Every checker, in the order they are run.
pub const CHECKERS: &[(&str, Checker)] = &[
    ("I-1", clients::no_lost_order),
    ("I-2", clients::one_order_per_key),
    ("I-3", clients::unknown_resolves),
    ("I-4", stock::conservation),
    ("I-5", stock::no_oversell),
    ("I-6", stock::one_ending),
    ("I-7", money::balanced),
    ("I-8", money::no_double_charge),
    ("I-9", money::ledgers_agree),
    ("I-10", orders::saga_terminates),
    ("I-11", orders::compensation_complete),
    ("I-12", orders::no_step_out_of_order),
    ("I-13", orders::stream_sound),
    ("I-14", events::outbox_complete),
    ("I-15", events::order_per_aggregate),
    ("I-16", events::effect_once),
    ("I-17", events::nothing_vanishes),
    ("I-18", orders::projections),
    ("I-19", clients::replay_identical),
    ("I-20", events::session_hygiene),
    ("I-22", clients::isolation_of_owners),
    ("I-23", secrets::nothing_leaks),
];

/// Runs all checkers.
pub fn all(facts: &Facts) -> Vec<Violation> {
    CHECKERS.iter().flat_map(|(_, check)| check(facts)).collect()
}

/// The operations of the history that touch what a violation is about.
pub fn touching<'f>(facts: &'f Facts, violation: &Violation) -> Vec<&'f crate::history::Op> {
    use crate::history::{Ask, Reply};
    let Some(about) = violation.about else { return Vec::new() };
    let keys: BTreeSet<&str> = facts
        .ops
        .iter()
        .filter(|op| op.outcome().and_then(Reply::seen).is_some_and(|seen| seen.id == about) && !op.key.is_empty())
        .map(|op| op.key.as_str())
        .collect();
    let touches = |ask: &Ask| match ask {
        Ask::Cancel(id) | Ask::Read(id) | Ask::Pry(id) => *id == about,
        Ask::Place { .. } => false,
    };
    facts.ops.iter().filter(|op| keys.contains(op.key.as_str()) || touches(&op.ask)).collect()
}
