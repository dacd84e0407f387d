//! How long to wait before trying again.

use rand::RngExt as _;
use std::time::Duration;

/// The wait before the repetition after `attempt` failures (1 = the first): doubles from `base` up to `most`, and half of it is random,
/// so that those who failed together do not return together.
pub fn delay(attempt: u32, base: Duration, most: Duration) -> Duration {
    let full = base.saturating_mul(1_u32.checked_shl(attempt.saturating_sub(1).min(20)).unwrap_or(u32::MAX)).min(most);
    full.mul_f64(0.5 + rand::rng().random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_stays_within_its_limits() {
        let (base, most) = (Duration::from_millis(100), Duration::from_secs(5));
        for attempt in 1..100 {
            let wait = delay(attempt, base, most);
            assert!(wait >= base / 2 && wait <= most, "{attempt}: {wait:?}");
        }
        assert!(delay(50, base, most) >= most / 2);
    }
}
