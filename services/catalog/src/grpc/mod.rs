//! The catalog's services, one file each.

pub mod lookup;
pub mod products;
