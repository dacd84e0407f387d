//! The chassis' data paths against real PostgreSQL, Kafka and Redis.
//!
//! Needs `DATABASE_URL` (a server where databases may be created), `KAFKA_BROKERS` and `REDIS_URL`. Every test brings its own database
//! and topic prefix and removes them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod batch;
mod cache;
mod idempotency;
mod inbox;
mod migrate;
mod outbox;
mod support;
mod unit;
mod work;
