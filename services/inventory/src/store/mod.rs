//! All SQL of inventory.
//!
//! Whoever changes stock first locks the holds concerned by order id, then the rows of `product_version` by product id, then the rows of
//! `stock`. That order makes deadlocks impossible and events of a product come in the order of their versions.

pub mod batch;
pub mod holds;
pub mod reconcile;
pub mod stock;
