//! The use cases: each one says what is one transaction, and what happens around it.

pub mod accounts;
pub mod keys;
pub mod passwords;
pub mod seal;
pub mod sessions;
pub mod tokens;
