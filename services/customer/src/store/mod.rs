//! All SQL of customer. Writers take the connection of a unit of work; time is always the database's.

pub mod attempts;
pub mod customers;
pub mod keys;
pub mod sessions;

use std::time::Duration;

/// Seconds for `make_interval(secs => ..)`.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// A duration from `extract(epoch from ..)`; what lies before zero is zero (the clocks of two transactions overlap).
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
