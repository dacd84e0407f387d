//! The rules of stock and holds. Pure: no clock, no database, no network.

mod book;
mod reservation;

pub use book::{Book, Command, Entry, Refusal, Shelf};
pub use reservation::{Item, Line, Reservation, Status};

#[cfg(test)]
mod tests;
