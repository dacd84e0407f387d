//! The RPCs: message in, one call of the application, message out.

mod reservations;
mod stock;

pub use reservations::ReservationApi;
pub use stock::StockApi;
