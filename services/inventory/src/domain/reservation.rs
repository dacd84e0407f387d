//! A hold on stock for one order.

use std::{collections::BTreeMap, sync::Arc};
use time::OffsetDateTime;
use uuid::Uuid;

/// Units of a product that an order wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The product.
    pub product: Uuid,
    /// Units, at least one.
    pub quantity: i64,
}

/// Units taken from one shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The product.
    pub product: Uuid,
    /// The warehouse they lie in.
    pub warehouse: Arc<str>,
    /// Units, at least one.
    pub quantity: i64,
}

/// What became of a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Held until it expires.
    Active,
    /// Held for good.
    Committed,
    /// Given back on request, or barred before it was ever taken.
    Released,
    /// Given back because its time ran out.
    Expired,
}

impl Status {
    /// Its name in the database and in error metadata.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Committed => "COMMITTED",
            Self::Released => "RELEASED",
            Self::Expired => "EXPIRED",
        }
    }

    /// The status of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Active, Self::Committed, Self::Released, Self::Expired].into_iter().find(|status| status.name() == name)
    }

    /// Whether the stock was given back.
    pub fn ended(self) -> bool {
        matches!(self, Self::Released | Self::Expired)
    }
}

/// A hold; all items or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The order it is for; also its own identity.
    pub order: Uuid,
    /// What became of it.
    pub status: Status,
    /// From which shelves it was taken; empty for an order that was released before it reserved.
    pub lines: Vec<Line>,
    /// When it ends by itself while active, on the database's clock.
    pub expires_at: OffsetDateTime,
    /// Counts its states from 1; the sequence of its events.
    pub version: i64,
}

impl Reservation {
    /// What it holds or held, by product in ascending order.
    pub fn items(&self) -> Vec<Item> {
        let mut sums = BTreeMap::new();
        for line in &self.lines {
            *sums.entry(line.product).or_insert(0) += line.quantity;
        }
        sums.into_iter().map(|(product, quantity)| Item { product, quantity }).collect()
    }

    /// Whether it holds exactly these items, in whatever order they are listed.
    pub fn holds(&self, wanted: &[Item]) -> bool {
        let mut wanted = wanted.to_vec();
        wanted.sort_by_key(|item| item.product);
        wanted == self.items()
    }
}
