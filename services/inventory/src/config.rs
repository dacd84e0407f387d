//! Inventory's settings.

use chassis::config::Source;
use mercato_chassis as chassis;
use std::time::Duration;

/// What an operator may set.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long a hold lives unless it is committed.
    pub reservation_ttl: Duration,
    /// How often stock is compared with its ledger and its holds.
    pub reconcile_every: Duration,
}

impl Config {
    /// Reads the settings; what is wrong with them is collected in `source`.
    pub fn read(source: &mut Source) -> Self {
        let doc = "how long stock is held for an order that is not confirmed, in milliseconds";
        let every = "how often stock is compared with its ledger and its holds, in milliseconds";
        Self {
            reservation_ttl: source.duration_ms("MERCATO_RESERVATION_TTL_MS", 15 * 60 * 1000, 100..=24 * 60 * 60 * 1000, doc),
            reconcile_every: source.duration_ms("MERCATO_STOCK_RECONCILE_MS", 60 * 60 * 1000, 1000..=24 * 60 * 60 * 1000, every),
        }
    }
}
