//! The payment service on real PostgreSQL and Kafka against a real provider server.

mod cost;
mod doubt;
mod orders;
mod reconcile;
mod refunds;
mod webhooks;
mod world;
