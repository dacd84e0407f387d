//! The use cases: where transactions begin and end, and the story can be read.

pub mod advance;
pub mod check;
pub mod place;

use crate::watch::Hub;
use mercato_chassis::{grpc::client::Peer, idempotency::Finder, pg::Db, work::Wake};
use std::sync::Arc;

/// What every use case stands on.
#[derive(Clone)]
pub struct App {
    /// Our own database.
    pub db: Db,
    /// Products and prices.
    pub catalog: Peer,
    /// Holds on stock.
    pub inventory: Peer,
    /// What became of payments, when their events are late.
    pub payment: Peer,
    /// Looks for answers that were given before, many at once.
    pub keys: Finder,
    /// Writes orders, many at once.
    pub placing: place::Entrance,
    /// Makes holds permanent, many at once.
    pub commits: check::Commits,
    /// Ends steps, many at once.
    pub settling: check::Entrance,
    /// Nudges the workers after a commit.
    pub wake: Wake,
    /// Tells watchers.
    pub hub: Arc<Hub>,
}
