//! The suite against a shop of which each role is a process of its own.

/// Whether each role is a process of its own.
const APART: bool = true;

/// What the shop's processes are told beside the usual.
const SETTINGS: &[(&str, &str)] = &[];

#[path = "suite/mod.rs"]
mod suite;
