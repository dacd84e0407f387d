//! What a product is and how it may change. Knows no database, no wire and no clock.

pub mod listing;
pub mod product;
