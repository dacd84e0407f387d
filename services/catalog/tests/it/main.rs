//! The catalog against a real PostgreSQL, Kafka and Redis, called over the wire.

mod events;
mod lists;
mod products;
mod support;
