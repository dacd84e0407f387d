//! The RPCs: from the wire to a use case and back, without rules of their own.

mod auth;
mod customers;
mod keys;

pub use auth::Auth;
pub use customers::Customers;
pub use keys::KeySets;
