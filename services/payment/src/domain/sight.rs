//! What follows from looking a payment up at the provider. This, and never a webhook, decides what is in doubt.

use super::{
    attempt::{Attempt, AttemptState, Step},
    payment::{Effect, Outcome, Payment},
    policy::Policy,
};
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// The provider's own state of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum FoundState {
    Authorized,
    Declined,
    SoftDeclined,
    Captured,
    Voided,
}

/// A payment as the provider sees it. Amounts in minor units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it stands.
    pub state: FoundState,
    /// ISO 4217 code; may be empty when nothing was ever held.
    pub currency: String,
    /// Held, at some time.
    pub authorized: i64,
    /// Taken.
    pub captured: i64,
    /// Given back: our key of the refund, and how much.
    pub refunds: Vec<(String, i64)>,
}

/// What a look-up by our reference showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// The provider knows it.
    Found(Found),
    /// The provider does not know it, yet.
    NotFound,
    /// The look-up itself failed.
    Failed(String),
}

/// What a sight means for one attempt.
enum Meaning {
    Done(i64),
    Declined,
    SoftDeclined,
    NotDone,
    Wrong(String),
}

impl Payment {
    /// Takes what a look-up showed. An attempt that is no longer in doubt is left alone.
    pub fn looked_up(&mut self, id: Uuid, sight: Sight, policy: &Policy, now: OffsetDateTime) -> Outcome {
        let Some(attempt) = self.attempt(id).filter(|a| matches!(a.state, AttemptState::Unknown | AttemptState::Stuck)) else {
            return Outcome::default();
        };
        let meaning = match sight {
            Sight::Failed(detail) => return self.look_again(id, detail, Duration::ZERO, policy, now),
            Sight::NotFound => Meaning::NotDone,
            Sight::Found(found) => self.meaning(attempt.step, &attempt.key, attempt.amount, &found),
        };
        match meaning {
            Meaning::Done(amount) => self.done(id, amount, now),
            Meaning::Declined => self.declined(id),
            Meaning::SoftDeclined => self.soft_declined(id, policy, now),
            Meaning::NotDone => self.not_done(id, policy, now),
            Meaning::Wrong(detail) => self.wrong(id, detail, policy, now),
        }
    }

    /// An open attempt whose time passed long ago has lost its work item: what came of it is looked up.
    pub fn lost(&mut self, id: Uuid, overdue: Duration, policy: &Policy, now: OffsetDateTime) -> Vec<Effect> {
        let late = |attempt: &&Attempt| attempt.due_at + overdue < now;
        match self.attempt(id).filter(late).map(|attempt| attempt.state) {
            Some(AttemptState::Intent) => self.in_doubt(id, "its work item was lost", policy, now).effects,
            Some(AttemptState::Unknown) => vec![Effect::LookUp(id, Duration::ZERO)],
            _ => vec![],
        }
    }

    fn meaning(&self, step: Step, key: &str, amount: i64, found: &Found) -> Meaning {
        let money = found.authorized > 0 || found.captured > 0;
        if money && found.currency != self.view.currency {
            return Meaning::Wrong(format!("currency {} instead of {}", found.currency, self.view.currency));
        }
        match (step, found.state) {
            (Step::Void, FoundState::Voided) => Meaning::Done(found.authorized),
            (Step::Void, FoundState::Captured) => Meaning::Wrong("captured instead of voided".to_owned()),
            (Step::Authorize, FoundState::Voided | FoundState::Declined) => Meaning::Declined,
            (Step::Authorize, FoundState::SoftDeclined) => Meaning::SoftDeclined,
            (Step::Authorize, FoundState::Authorized) if found.authorized == amount => Meaning::Done(amount),
            // Nobody but we captures, and only what was held for us: then we have forgotten it, in a restored backup. The capture is asked for
            // again, and answered by its key.
            (Step::Authorize, FoundState::Captured) if found.authorized == amount && found.captured == amount => Meaning::Done(amount),
            (Step::Authorize, _) => {
                Meaning::Wrong(format!("{} authorised, {} captured instead of {amount} authorised", found.authorized, found.captured))
            }
            (Step::Capture, FoundState::Captured) if found.captured == amount => Meaning::Done(amount),
            (Step::Capture, FoundState::Captured) => Meaning::Wrong(format!("{} captured instead of {amount}", found.captured)),
            (Step::Refund, _) => match found.refunds.iter().find(|(reference, _)| reference == key) {
                Some((_, refunded)) if *refunded == amount => Meaning::Done(amount),
                Some((_, refunded)) => Meaning::Wrong(format!("{refunded} refunded instead of {amount}")),
                None => Meaning::NotDone,
            },
            (Step::Void | Step::Capture, _) => Meaning::NotDone,
        }
    }

    /// Not done is believed only after the provider's settle time; then the same key is sent again.
    fn not_done(&mut self, id: Uuid, policy: &Policy, now: OffsetDateTime) -> Outcome {
        let Some(attempt) = self.attempt(id) else { return Outcome::default() };
        let (step, tries, stuck) = (attempt.step, attempt.tries, attempt.state == AttemptState::Stuck);
        let settled = attempt.sent_at.unwrap_or(now) + policy.settle;
        if now < settled && !stuck {
            let left = Duration::try_from(settled - now).unwrap_or_default();
            return self.look_again(id, "not done yet".to_owned(), left, policy, now);
        }
        let late = now > self.view.created_at + policy.deadline;
        match step {
            Step::Authorize if self.cancelled || late => self.close_at_provider(id, now),
            Step::Capture if self.cancelled => {
                self.settle_attempt(id, AttemptState::Abandoned, "not done: the order was cancelled");
                let mut effects = self.give_back(now);
                effects.extend(stuck.then_some(Effect::CloseCase(step)));
                Outcome { effects, again: None }
            }
            _ if stuck => Outcome::default(),
            Step::Capture | Step::Void | Step::Refund if tries >= policy.tries => Outcome { effects: self.stuck(id), again: None },
            _ => self.send_again(id, policy, now),
        }
    }

    fn send_again(&mut self, id: Uuid, policy: &Policy, now: OffsetDateTime) -> Outcome {
        let Some(attempt) = self.attempt_mut(id) else { return Outcome::default() };
        let wait = if attempt.step == Step::Authorize { Duration::ZERO } else { policy.before_retry(attempt.tries) };
        attempt.state = AttemptState::Intent;
        attempt.due_at = now + wait;
        Outcome { effects: vec![Effect::Do(attempt.step, id, wait)], again: None }
    }

    /// The authorisation is no longer wanted, and the provider may still come to it: the void closes our reference there, and gives
    /// back what it finds.
    fn close_at_provider(&mut self, id: Uuid, now: OffsetDateTime) -> Outcome {
        self.settle_attempt(id, AttemptState::Abandoned, "not wanted any more");
        Outcome { effects: self.give_back(now), again: None }
    }

    /// The provider has something else than was asked. It is never accepted: an unwanted hold is given back, the rest waits for people.
    fn wrong(&mut self, id: Uuid, detail: String, policy: &Policy, now: OffsetDateTime) -> Outcome {
        let Some(attempt) = self.attempt_mut(id) else { return Outcome::default() };
        let (step, stuck) = (attempt.step, attempt.state == AttemptState::Stuck);
        attempt.detail.clone_from(&detail);
        let late = now > self.view.created_at + policy.deadline;
        let alarm = Effect::Alarm(detail.clone());
        let mut outcome = match step {
            Step::Authorize if self.cancelled || late => self.close_at_provider(id, now),
            Step::Authorize => self.look_again(id, detail, Duration::ZERO, policy, now),
            _ if stuck => Outcome::default(),
            _ => Outcome { effects: self.stuck(id), again: None },
        };
        outcome.effects.push(alarm);
        outcome
    }

    /// `left` is the rest of the settle time: a look-up at its end decides, so none is planned past it.
    fn look_again(&mut self, id: Uuid, detail: String, left: Duration, policy: &Policy, now: OffsetDateTime) -> Outcome {
        let deadline = self.view.created_at + policy.deadline;
        let Some(attempt) = self.attempt_mut(id) else { return Outcome::default() };
        if attempt.state == AttemptState::Stuck {
            return Outcome::default();
        }
        attempt.looks += 1;
        attempt.detail = detail;
        let mut wait = policy.before_look_up(attempt.looks);
        let mut cap = |limit: Duration| {
            if limit > Duration::ZERO {
                wait = wait.min(limit + Duration::from_millis(1));
            }
        };
        cap(left);
        if attempt.step == Step::Authorize {
            cap(Duration::try_from(deadline - now).unwrap_or_default());
        }
        attempt.due_at = now + wait;
        Outcome { effects: vec![], again: Some(wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::payment::{NewPayment, Status, Token};
    use super::super::policy::TimeScale;
    use super::*;

    fn in_doubt() -> (Payment, Uuid, Policy, OffsetDateTime) {
        let now = OffsetDateTime::UNIX_EPOCH;
        let policy = Policy { deadline: Duration::from_secs(840), settle: Duration::from_secs(60), tries: 3, scale: TimeScale(100) };
        let (order_id, customer_id) = (Uuid::from_u128(7), Uuid::from_u128(8));
        let (currency, method, token) = ("EUR".to_owned(), "card".to_owned(), Token("tok".to_owned()));
        let new = NewPayment { order_id, customer_id, amount: 2999, currency, method, token };
        let (mut payment, effects) = Payment::begin_for_order(new, Uuid::from_u128(9), now);
        let id = effects.iter().find_map(|effect| if let Effect::Do(_, id, _) = effect { Some(*id) } else { None }).expect("a first step");
        let later = now + Duration::from_secs(60);
        payment.lost(id, Duration::from_secs(30), &policy, later);
        (payment, id, policy, later)
    }

    fn captured(amount: i64) -> Sight {
        let state = FoundState::Captured;
        Sight::Found(Found { state, currency: "EUR".to_owned(), authorized: 2999, captured: amount, refunds: vec![] })
    }

    #[test]
    fn what_a_restored_backup_has_forgotten_is_taken_up_where_the_provider_stands() {
        let (mut payment, id, policy, now) = in_doubt();
        payment.looked_up(id, captured(2999), &policy, now);
        assert_eq!(payment.view.status, Status::Authorized);
        let effects = payment.order_confirmed(now);
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Do(Step::Capture, ..))), "{effects:?}");
    }

    #[test]
    fn another_amount_than_was_held_is_never_accepted() {
        let (mut payment, id, policy, now) = in_doubt();
        let outcome = payment.looked_up(id, captured(2998), &policy, now);
        assert!(outcome.effects.iter().any(|effect| matches!(effect, Effect::Alarm(_))), "{outcome:?}");
        assert_ne!(payment.view.status, Status::Authorized);
    }
}
