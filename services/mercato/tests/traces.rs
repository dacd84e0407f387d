//! The trace of an order, as a collector gets it from a shop of which each role is a process of its own.

/// Whether each role is a process of its own.
const APART: bool = true;

/// What the shop's processes are told beside the usual.
const SETTINGS: &[(&str, &str)] = &[("OTEL_BSP_SCHEDULE_DELAY", "100")];

#[path = "suite/traces.rs"]
mod suite;
