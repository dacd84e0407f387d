//! The trace of an order, as a collector gets it from a shop of which each role is a process of its own.

/// Whether each role is a process of its own.
const APART: bool = true;

/// What the shop's processes are told beside the usual.
/// Slowness alone must not make them export a trace: the machine may be slow.
const SETTINGS: &[(&str, &str)] = &[("OTEL_BSP_SCHEDULE_DELAY", "100"), ("MERCATO_TRACE_SLOW_MS", "600000")];

#[path = "suite/traces.rs"]
mod suite;
