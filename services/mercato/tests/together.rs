//! The suite against a shop whose roles share one process.

/// Whether each role is a process of its own.
const APART: bool = false;

/// What the shop's processes are told beside the usual.
const SETTINGS: &[(&str, &str)] = &[];

#[path = "suite/mod.rs"]
mod suite;
