//! The suite against a shop whose roles share one process.

/// Whether each role is a process of its own.
const APART: bool = false;

#[path = "suite/mod.rs"]
mod suite;
