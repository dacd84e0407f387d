//! The fault harness.
