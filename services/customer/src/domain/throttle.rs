//! How guessing is slowed down: a few free failures, then a wait that doubles. Counters forget after a quiet window.

use std::time::Duration;

/// Failures in a row of one account name before its sign-ins have to wait.
pub const ACCOUNT_LIMIT: i32 = 5;
/// Failures of one client address before its sign-ins have to wait. Higher, because many people may share an address.
pub const ADDRESS_LIMIT: i32 = 50;
/// A counter without a failure for this long starts again at zero.
pub const WINDOW: Duration = Duration::from_secs(15 * 60);
/// The first wait.
const FIRST: Duration = Duration::from_secs(30);
/// The longest wait, so that nobody can lock an owner out for good.
const LONGEST: Duration = WINDOW;

/// How long to wait after the `failures`-th failure in a row, when `limit` of them are one too many. `None`: not at all.
pub fn wait(failures: i32, limit: i32) -> Option<Duration> {
    let doublings = u32::try_from(failures.checked_sub(limit)?).ok()?;
    let factor = 2u32.checked_pow(doublings).unwrap_or(u32::MAX);
    Some(FIRST.checked_mul(factor).map_or(LONGEST, |wait| wait.min(LONGEST)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_wait_doubles_from_the_limit_on() {
        let seconds = |failures| wait(failures, ACCOUNT_LIMIT).map(|wait| wait.as_secs());
        assert_eq!(
            [4, 5, 6, 7, 8, 9, 10, 11].map(seconds),
            [None, Some(30), Some(60), Some(120), Some(240), Some(480), Some(900), Some(900)]
        );
    }

    proptest! {
        #[test]
        fn a_wait_never_shrinks_and_never_exceeds_the_window(failures in i32::MIN..i32::MAX, limit in 1i32..1000) {
            let (now, next) = (wait(failures, limit), wait(failures + 1, limit));
            prop_assert_eq!(now.is_some(), failures >= limit);
            prop_assert!(now <= next);
            prop_assert!(now.is_none_or(|wait| wait >= FIRST && wait <= LONGEST));
        }
    }
}
