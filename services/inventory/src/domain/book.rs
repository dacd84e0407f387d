//! Decides a batch of commands, first come first served, over the stock and the holds they concern.

use super::{Item, Line, Reservation, Status};
use mercato_chassis::plant;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// A change to a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Hold all items for the order, or none. A product appears once.
    Reserve {
        /// The order.
        order: Uuid,
        /// What to hold.
        items: Vec<Item>,
    },
    /// Make the hold permanent.
    Commit(Uuid),
    /// Give the hold back, or bar the order from ever reserving.
    Release(Uuid),
    /// Give the hold back if its time ran out.
    Expire(Uuid),
}

impl Command {
    /// Its name in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Reserve { .. } => "reserve",
            Self::Commit(_) => "commit",
            Self::Release(_) => "release",
            Self::Expire(_) => "expire",
        }
    }

    /// The order it concerns.
    pub fn order(&self) -> Uuid {
        match self {
            Self::Reserve { order, .. } | Self::Commit(order) | Self::Release(order) | Self::Expire(order) => *order,
        }
    }
}

/// Why a command is refused. Nothing changed by it, except that an overdue hold it ran into has expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Not enough of this product, the first one short.
    Short {
        /// The product.
        product: Uuid,
        /// Units wanted.
        requested: i64,
        /// Units that could be reserved, over all warehouses.
        available: i64,
    },
    /// The order holds nothing and never did.
    NotFound(Uuid),
    /// The hold expired or was released.
    Ended {
        /// The order.
        order: Uuid,
        /// How it ended.
        status: Status,
    },
    /// The order already holds other items.
    Conflict(Uuid),
}

impl Refusal {
    /// Its name in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Short { .. } => "short",
            Self::NotFound(_) => "not_found",
            Self::Ended { .. } => "ended",
            Self::Conflict(_) => "conflict",
        }
    }
}

/// The stock of a product in one warehouse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shelf {
    /// The warehouse.
    pub warehouse: Arc<str>,
    /// Units there that can still be reserved.
    pub available: i64,
}

/// A row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The order behind it.
    pub order: Uuid,
    /// The product.
    pub product: Uuid,
    /// The warehouse.
    pub warehouse: Arc<str>,
    /// Change of what can be reserved there.
    pub available_delta: i64,
    /// Why: reserve, release or expire.
    pub cause: &'static str,
}

/// The stock and holds a batch concerns, locked by the caller, and what the batch makes of them.
#[derive(Debug)]
pub struct Book {
    now: OffsetDateTime,
    expires_at: OffsetDateTime,
    shelves: HashMap<Uuid, Vec<Shelf>>,
    reservations: HashMap<Uuid, Reservation>,
    existed: BTreeSet<Uuid>,
    entries: Vec<Entry>,
    steps: Vec<Reservation>,
}

impl Book {
    /// A book as of `now` on the database's clock; a new hold lives for `ttl`.
    pub fn new(now: OffsetDateTime, ttl: Duration, shelves: HashMap<Uuid, Vec<Shelf>>, holds: Vec<Reservation>) -> Self {
        let existed = holds.iter().map(|hold| hold.order).collect();
        let reservations = holds.into_iter().map(|hold| (hold.order, hold)).collect();
        Self { now, expires_at: now + ttl, shelves, reservations, existed, entries: Vec::new(), steps: Vec::new() }
    }

    /// Decides the next command; what it changes is seen by those after it.
    pub fn apply(&mut self, command: &Command) -> Result<Reservation, Refusal> {
        let order = command.order();
        match (command, self.status(order)) {
            (Command::Reserve { items, .. }, None) => self.reserve(order, items),
            (Command::Release(_), None) => Ok(self.step(order, Status::Released)),
            (Command::Commit(_) | Command::Expire(_), None) => Err(Refusal::NotFound(order)),

            (Command::Reserve { .. } | Command::Commit(_) | Command::Expire(_), Some(Status::Active)) if self.due(order) => {
                let expired = self.give_back(order, Status::Expired);
                match command {
                    Command::Expire(_) => Ok(expired),
                    _ => Err(Refusal::Ended { order, status: Status::Expired }),
                }
            }
            (Command::Commit(_), Some(Status::Active)) => Ok(self.step(order, Status::Committed)),
            (Command::Release(_), Some(Status::Active | Status::Committed)) => Ok(self.give_back(order, Status::Released)),

            (Command::Reserve { .. } | Command::Commit(_), Some(status)) if status.ended() => Err(Refusal::Ended { order, status }),
            (Command::Reserve { items, .. }, Some(_)) if !self.reservations[&order].holds(items) => Err(Refusal::Conflict(order)),
            (_, Some(_)) => Ok(self.reservations[&order].clone()),
        }
    }

    /// As of when it decides.
    pub fn now(&self) -> OffsetDateTime {
        self.now
    }

    /// The ledger rows made, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The holds as they were right after each change of their state, in order; one event each.
    pub fn steps(&self) -> &[Reservation] {
        &self.steps
    }

    /// The holds that changed, as they are in the end, by order id: those that are new, and those that existed.
    pub fn changed(&self) -> (Vec<&Reservation>, Vec<&Reservation>) {
        let orders: BTreeSet<Uuid> = self.steps.iter().map(|step| step.order).collect();
        let (existed, new): (BTreeSet<Uuid>, BTreeSet<Uuid>) = orders.into_iter().partition(|order| self.existed.contains(order));
        let look_up = |orders: BTreeSet<Uuid>| orders.into_iter().map(|order| &self.reservations[&order]).collect();
        (look_up(new), look_up(existed))
    }

    /// What changed of the shelves in the end, by product and warehouse; shelves that came out even are left out.
    pub fn shelf_deltas(&self) -> BTreeMap<(Uuid, Arc<str>), i64> {
        let mut deltas = BTreeMap::new();
        for entry in &self.entries {
            *deltas.entry((entry.product, Arc::clone(&entry.warehouse))).or_insert(0) += entry.available_delta;
        }
        deltas.retain(|_, delta| *delta != 0);
        deltas
    }

    /// Units of the product that can be reserved now, over all warehouses.
    pub fn available(&self, product: Uuid) -> i64 {
        self.shelves.get(&product).map_or(0, |shelves| shelves.iter().map(|shelf| shelf.available).sum())
    }

    fn status(&self, order: Uuid) -> Option<Status> {
        self.reservations.get(&order).map(|hold| hold.status)
    }

    fn due(&self, order: Uuid) -> bool {
        self.reservations.get(&order).is_some_and(|hold| hold.expires_at <= self.now)
    }

    fn reserve(&mut self, order: Uuid, items: &[Item]) -> Result<Reservation, Refusal> {
        for item in items {
            let available = self.available(item.product);
            if available < item.quantity && !plant::bug("bug-09") {
                return Err(Refusal::Short { product: item.product, requested: item.quantity, available });
            }
        }
        let lines: Vec<Line> = items.iter().flat_map(|item| self.take(item)).collect();
        for line in &lines {
            self.write(order, line, -line.quantity, "reserve");
        }
        self.reservations.insert(order, self.blank(order, lines));
        Ok(self.step(order, Status::Active))
    }

    /// Takes an item that is there, from the fullest shelf on; of equally full ones, from the first by name.
    fn take(&mut self, item: &Item) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut missing = item.quantity;
        let shelves = self.shelves.entry(item.product).or_default();
        shelves.sort_by(|a, b| (Reverse(a.available), &a.warehouse).cmp(&(Reverse(b.available), &b.warehouse)));
        for shelf in shelves.iter_mut() {
            let quantity = if plant::bug("bug-09") { missing } else { missing.min(shelf.available) };
            if quantity == 0 {
                break;
            }
            shelf.available -= quantity;
            missing -= quantity;
            lines.push(Line { product: item.product, warehouse: Arc::clone(&shelf.warehouse), quantity });
        }
        debug_assert_eq!(missing, 0, "the caller made sure that enough is there");
        lines
    }

    fn give_back(&mut self, order: Uuid, status: Status) -> Reservation {
        let cause = if status == Status::Expired { "expire" } else { "release" };
        let lines = self.reservations[&order].lines.clone();
        for line in &lines {
            let shelf = self.shelves.entry(line.product).or_default().iter_mut().find(|shelf| shelf.warehouse == line.warehouse);
            if let Some(shelf) = shelf {
                shelf.available += line.quantity;
            }
            self.write(order, line, line.quantity, cause);
        }
        self.step(order, status)
    }

    fn write(&mut self, order: Uuid, line: &Line, available_delta: i64, cause: &'static str) {
        self.entries.push(Entry { order, product: line.product, warehouse: Arc::clone(&line.warehouse), available_delta, cause });
    }

    fn step(&mut self, order: Uuid, status: Status) -> Reservation {
        let blank = self.blank(order, Vec::new());
        let hold = self.reservations.entry(order).or_insert(blank);
        hold.status = status;
        hold.version += 1;
        let reservation = hold.clone();
        self.steps.push(reservation.clone());
        reservation
    }

    /// A hold before its first state.
    fn blank(&self, order: Uuid, lines: Vec<Line>) -> Reservation {
        Reservation { order, status: Status::Active, lines, expires_at: self.expires_at, version: 0 }
    }
}
