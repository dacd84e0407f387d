//! When signing keys come and go.
//!
//! A key signs in `[active_from, retired_at)`. It is published from the moment it exists until nothing signed with it can be alive, and
//! it exists at least one cache life before it signs: no verifier ever meets a key it could not have fetched.

use std::time::Duration;

use time::OffsetDateTime;

/// The times of key rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A key signs for this long.
    pub rotate_every: Duration,
    /// A new key is published this long before it signs; also the longest a verifier may cache the set.
    pub publish_ahead: Duration,
    /// Life of a token.
    pub token_life: Duration,
}

impl Policy {
    /// How long a retired key stays published: the life of the last token it signed, and the caches.
    pub fn afterlife(&self) -> Duration {
        self.token_life + self.publish_ahead
    }
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Signs from then on.
    pub active_from: OffsetDateTime,
    /// Signs no more from then on; `None`: no successor yet.
    pub retired_at: Option<OffsetDateTime>,
}

impl Times {
    /// Whether it signs at `now`.
    pub fn signs(&self, now: OffsetDateTime) -> bool {
        self.active_from <= now && self.retired_at.is_none_or(|end| now < end)
    }

    /// Whether verifiers must know it at `now`.
    pub fn published(&self, now: OffsetDateTime, policy: &Policy) -> bool {
        self.retired_at.is_none_or(|end| now < end + policy.afterlife())
    }
}

/// What rotation has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Nothing signs: the first start, or every key was withdrawn. Make a key that signs from now on.
    CreateNow,
    /// Make a key that takes over at this time, and let the open one retire then.
    CreateAt(OffsetDateTime),
}

/// Decides on the keys there are.
pub fn plan(now: OffsetDateTime, keys: &[Times], policy: &Policy) -> Step {
    if !keys.iter().any(|key| key.signs(now)) {
        return Step::CreateNow;
    }
    let earliest = now + policy.publish_ahead;
    let open = keys.iter().filter(|key| key.retired_at.is_none()).map(|key| key.active_from).max();
    match open.map(|active_from| active_from + policy.rotate_every) {
        Some(takeover) if takeover > earliest => Step::Wait,
        _ => Step::CreateAt(earliest),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        rotate_every: Duration::from_secs(30 * 86_400),
        publish_ahead: Duration::from_secs(600),
        token_life: Duration::from_secs(600),
    };

    proptest! {
        /// Whatever the pauses between the job's runs, exactly one key signs, it was published a cache life before (except the first),
        /// and every token's key stays published while the token lives.
        #[test]
        fn rotation_never_leaves_a_gap(pauses in proptest::collection::vec(1u64..20 * 86_400, 1..60)) {
            let mut now = OffsetDateTime::UNIX_EPOCH;
            let mut keys: Vec<(OffsetDateTime, Times)> = Vec::new();
            for pause in pauses {
                let times: Vec<Times> = keys.iter().map(|key| key.1).collect();
                let start = match plan(now, &times, &POLICY) {
                    Step::Wait => None,
                    Step::CreateNow => Some(now),
                    Step::CreateAt(at) => Some(at),
                };
                if let Some(at) = start {
                    prop_assert!(keys.is_empty() || at >= now + POLICY.publish_ahead);
                    for key in &mut keys {
                        key.1.retired_at.get_or_insert(at);
                    }
                    keys.push((now, Times { active_from: at, retired_at: None }));
                }
                for moment in [now, now + Duration::from_secs(pause)] {
                    let signing: Vec<_> = keys.iter().filter(|key| key.1.signs(moment)).collect();
                    prop_assert_eq!(signing.len(), 1);
                    let last_token_dies = signing[0].1.retired_at.unwrap_or(moment) + POLICY.token_life;
                    prop_assert!(signing[0].1.published(last_token_dies, &POLICY));
                }
                now += Duration::from_secs(pause);
            }
        }
    }

    #[test]
    fn withdrawing_every_key_makes_one_that_signs_at_once() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let gone = Times { active_from: now - Duration::from_secs(9), retired_at: Some(now) };
        assert_eq!(plan(now, &[gone], &POLICY), Step::CreateNow);
        assert_eq!(plan(now, &[], &POLICY), Step::CreateNow);
    }
}
