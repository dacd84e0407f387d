//! The chassis' data paths against real PostgreSQL, Kafka and Redis.
//!
//! Needs `DATABASE_URL` (a server where databases may be created), `KAFKA_BROKERS` and `REDIS_URL`. Every test brings its own database
//! and topic prefix and removes them.

mod batch;
mod cache;
mod idempotency;
mod inbox;
mod outbox;
mod support;
mod unit;
mod work;
