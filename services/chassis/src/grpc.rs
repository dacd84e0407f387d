//! gRPC in both directions, with the policy of the contracts around every call.

pub mod body;
pub mod breaker;
pub mod client;
pub mod layers;
mod places;
pub mod server;
pub mod timeout;
