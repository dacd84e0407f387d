//! The order's rules, pure: no store, no network, no clock.

pub mod decide;
pub mod order;
pub mod pricing;

pub use decide::{Command, Refused, decide};
pub use order::{Address, Event, Line, Order, PaymentStatus, Placed, Status};
