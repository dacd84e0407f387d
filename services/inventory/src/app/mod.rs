//! What inventory does; each transaction begins and ends here.

mod reconcile;
mod reservations;
mod seed;
mod stock;

pub use reconcile::{Difference, reconcile, report};
pub use reservations::Reservations;
pub use seed::seed;
pub use stock::{Page, StockKeeper};
