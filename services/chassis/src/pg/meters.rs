//! What a pool tells about itself.

use super::{Db, Inner};
use crate::metrics::{self, Counter, Histogram};
use std::sync::{Arc, Weak};

/// Outcomes of units of work that alarms look at: they are told from the start, or their first occurrence would not be seen.
const WATCHED: [&str; 5] = ["committed", "saturated", "timeout", "unknown", "error"];

/// The series that are written for each unit of work.
pub(super) struct Meters {
    pub wait: Histogram,
    pub hold: Histogram,
    pub discarded: Counter,
}

impl Meters {
    pub fn new(role: &str) -> Meters {
        WATCHED.iter().for_each(|outcome| metrics::DB_UNITS.add([role, outcome], 0));
        Meters { wait: metrics::DB_WAIT.of([role]), hold: metrics::DB_HOLD.of([role]), discarded: metrics::DB_DISCARDED.of([role]) }
    }
}

/// Has the gauges set at each scrape, as long as the pool is there.
pub(super) fn watch(db: &Db) {
    let pool: Weak<Inner> = Arc::downgrade(&db.inner);
    metrics::sample(move || pool.upgrade().map(|inner| tell(&inner)).is_some());
}

fn tell(inner: &Inner) {
    let role = inner.role.as_str();
    let open = inner.pool.size() as usize;
    let used = open.saturating_sub(inner.pool.num_idle() + inner.warm.idle());
    let taken = |most: usize, semaphore: &tokio::sync::Semaphore| most.saturating_sub(semaphore.available_permits()) as f64;
    metrics::DB_CONNECTIONS.set([role], open as f64);
    metrics::DB_IN_USE.set([role], used as f64);
    metrics::DB_LIMIT.set([role], inner.size as f64);
    metrics::DB_RUNNING.set([role, "foreground"], taken(super::foreground(inner.size), &inner.foreground));
    metrics::DB_RUNNING.set([role, "background"], taken(super::background(inner.size), &inner.background));
}
