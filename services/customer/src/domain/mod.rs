//! The rules of accounts, sessions, keys and throttling, without any store, clock or wire.

pub mod account;
pub mod keys;
pub mod session;
pub mod throttle;
