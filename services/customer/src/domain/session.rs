//! What becomes of a refresh token that is presented.
//!
//! A token works once. Presented again it is taken for stolen and its whole session ends, with one exception: the answer to the first
//! use may have been lost on the way. So one repetition within [`GRACE`] is forgiven, as long as the token that was handed out instead
//! has not been used. That successor dies at once: should it turn up later, the session ends. Two holders can therefore never both go on.

use std::time::Duration;

/// How long after its use a token may be repeated once.
pub const GRACE: Duration = Duration::from_secs(10);

/// What the store knows of a presented token, by the database's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented {
    /// Its session was ended.
    pub session_ended: bool,
    /// Its life is over.
    pub expired: bool,
    /// How long ago it was used; `None`: never.
    pub used_ago: Option<Duration>,
    /// Its repetition is spent, or it was replaced by one.
    pub spent: bool,
    /// The token it was last exchanged for was used.
    pub successor_used: bool,
}

/// What to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand out the next token.
    Exchange,
    /// Hand out the next token once more and kill the one that was lost.
    Repeat,
    /// End the session: it was used twice.
    Reuse,
    /// Refuse; nothing to do.
    Refuse,
}

/// Judges a token.
pub fn judge(token: Presented) -> Verdict {
    if token.session_ended || token.expired {
        return Verdict::Refuse;
    }
    match token.used_ago {
        None => Verdict::Exchange,
        Some(ago) if ago <= GRACE && !token.spent && !token.successor_used => Verdict::Repeat,
        Some(_) => Verdict::Reuse,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The store's part in miniature: tokens of one session, driven by the verdicts exactly as `store::sessions` drives the rows.
    #[derive(Default)]
    struct Family {
        tokens: Vec<(Option<Duration>, bool, Option<usize>)>, // used at, spent, successor
        ended: bool,
        now: Duration,
    }

    impl Family {
        fn present(&mut self, at: usize) -> Verdict {
            let (used, spent, successor) = self.tokens[at];
            let verdict = judge(Presented {
                session_ended: self.ended,
                expired: false,
                used_ago: used.map(|used| self.now - used),
                spent,
                successor_used: successor.is_some_and(|next| self.tokens[next].0.is_some()),
            });
            match verdict {
                Verdict::Exchange | Verdict::Repeat => {
                    if verdict == Verdict::Repeat {
                        let lost = successor.expect("a used token has a successor");
                        self.tokens[lost].0 = Some(self.now);
                        self.tokens[lost].1 = true;
                    }
                    self.tokens.push((None, false, None));
                    let next = self.tokens.len() - 1;
                    let token = &mut self.tokens[at];
                    *token = (token.0.or(Some(self.now)), verdict == Verdict::Repeat, Some(next));
                }
                Verdict::Reuse => self.ended = true,
                Verdict::Refuse => {}
            }
            verdict
        }
    }

    proptest! {
        #[test]
        fn there_is_never_more_than_one_way_on(steps in proptest::collection::vec((any::<prop::sample::Index>(), 0u64..8), 1..40)) {
            let mut family = Family { tokens: vec![(None, false, None)], ..Family::default() };
            for (token, seconds) in steps {
                family.now += Duration::from_secs(seconds);
                let at = token.index(family.tokens.len());
                let before = family.tokens.len();
                let verdict = family.present(at);
                let unused = family.tokens.iter().filter(|token| token.0.is_none()).count();
                prop_assert!(unused <= 1, "two tokens of one session are alive");
                prop_assert_eq!(family.tokens.len() > before, matches!(verdict, Verdict::Exchange | Verdict::Repeat));
                if family.ended {
                    prop_assert!(matches!(verdict, Verdict::Reuse | Verdict::Refuse));
                }
            }
        }
    }

    #[test]
    fn a_lost_answer_is_forgiven_once_and_the_lost_token_is_poison() {
        let mut family = Family { tokens: vec![(None, false, None)], ..Family::default() };
        assert_eq!(family.present(0), Verdict::Exchange);
        assert_eq!(family.present(0), Verdict::Repeat);
        assert_eq!(family.present(1), Verdict::Reuse);
        assert_eq!(family.present(2), Verdict::Refuse);
    }

    #[test]
    fn a_late_or_second_repetition_ends_the_session() {
        let mut late = Family { tokens: vec![(None, false, None)], ..Family::default() };
        late.present(0);
        late.now += GRACE + Duration::from_millis(1);
        assert_eq!(late.present(0), Verdict::Reuse);
        let mut twice = Family { tokens: vec![(None, false, None)], ..Family::default() };
        twice.present(0);
        twice.present(0);
        assert_eq!(twice.present(0), Verdict::Reuse);
    }
}
