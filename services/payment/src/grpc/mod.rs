//! The RPCs: contract to domain and back. No rules and no SQL here.

mod lookup;
mod payments;

pub use lookup::Lookup;
pub use payments::Service;
