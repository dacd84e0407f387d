//! Times and limits.

use std::time::Duration;

/// Stretches or shrinks every wait, so that tests need not wait for hours. In percent; 100 is real time.
#[derive(Debug, Clone, Copy)]
pub struct TimeScale(pub u32);

impl TimeScale {
    /// A wait in this scale.
    pub fn of(self, wait: Duration) -> Duration {
        wait.saturating_mul(self.0) / 100
    }
}

/// How long a payment may take and how often things are tried.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// From the payment's beginning until no further authorisation is tried.
    pub deadline: Duration,
    /// How long after a call the provider's "not found" is not believed.
    pub settle: Duration,
    /// Failed calls of a capture, void or refund until a person is asked.
    pub tries: i32,
    /// The scale of the waits below.
    pub scale: TimeScale,
}

const SOFT: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120)];
const LOOK: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
    Duration::from_secs(3600),
];

impl Policy {
    /// The wait after the soft decline of this epoch.
    pub fn after_soft_decline(&self, epoch: i32) -> Duration {
        self.scale.of(SOFT[index(epoch - 1, SOFT.len())])
    }

    /// The wait before the next look-up, after so many that told nothing.
    pub fn before_look_up(&self, looks: i32) -> Duration {
        self.scale.of(LOOK[index(looks, LOOK.len())])
    }

    /// The wait before the next call, after so many that failed: 1 s doubling to an hour.
    pub fn before_retry(&self, tries: i32) -> Duration {
        let doubled = Duration::from_secs(1).saturating_mul(1 << index(tries - 1, 12));
        self.scale.of(doubled.min(Duration::from_secs(3600)))
    }
}

fn index(n: i32, len: usize) -> usize {
    usize::try_from(n).unwrap_or(0).min(len - 1)
}
