//! Breaks the running shop on purpose, under load, and checks that every promise held.
//!
//! A run starts a shop of its own, lets customers shop while faults strike by a seeded schedule, heals, waits until nothing moves, and
//! judges what clients heard, what the databases, the topics and the provider's own ledger say. Nothing it starts outlives it, and it
//! touches nothing it did not start.

pub mod acceptance;
pub mod check;
pub mod clocks;
pub mod door;
pub mod every;
pub mod facts;
pub mod form;
pub mod history;
pub mod hygiene;
pub mod load;
pub mod load_facts;
pub mod nemesis;
pub mod overload;
pub mod planted;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod report;
pub mod rolling;
pub mod run;
pub mod scan;
pub mod scenarios;
pub mod settle;
pub mod upgrade;
pub mod world;
