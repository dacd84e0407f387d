//! The suite against a shop of which each role is a process of its own.

/// Whether each role is a process of its own.
const APART: bool = true;

#[path = "suite/mod.rs"]
mod suite;
