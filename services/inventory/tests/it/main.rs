//! Inventory against a real PostgreSQL: what the rules promise must hold when everything happens at once.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod events;
mod grpc;
mod ledger;
mod races;
mod reservations;
mod stock;
mod work;
mod world;
