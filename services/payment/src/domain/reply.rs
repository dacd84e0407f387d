//! What follows from the provider's answer to a call.

use super::{
    attempt::{AttemptState, Step},
    ledger::Posting,
    payment::{DECLINED, EXPIRED, Effect, EventKind, Outcome, Payment, Status},
    policy::Policy,
};
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// The provider's answer to a call, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done, with the amount the provider names; it was compared with what was asked.
    Approved {
        /// Minor units.
        amount: i64,
    },
    /// Refused for good.
    Declined,
    /// Refused for now.
    SoftDeclined,
    /// Not possible in the state the provider sees; the truth has to be looked up.
    Refused(String),
    /// Certainly not done, and worth another call.
    Transient(String),
    /// Not sent at all, because the provider is known to be ill.
    NotSent(String),
    /// Nobody knows. Never a failure.
    Unknown(String),
    /// The answer does not fit what was asked: an alarm, and unknown.
    Mismatch(String),
}

/// How long a call waits that was not sent because the breaker is open.
const BREAKER_WAIT: Duration = Duration::from_secs(2);

impl Payment {
    /// Takes the answer to a call. An attempt that is no longer an intent is left alone.
    pub fn reply(&mut self, id: Uuid, reply: Reply, policy: &Policy, now: OffsetDateTime) -> Outcome {
        let Some(step) = self.attempt(id).filter(|a| a.state == AttemptState::Intent).map(|a| a.step) else {
            return Outcome::default();
        };
        match (step, reply) {
            (_, Reply::Approved { amount }) => self.done(id, amount, now),
            (Step::Authorize, Reply::Declined) => self.declined(id),
            (Step::Authorize, Reply::SoftDeclined) => self.soft_declined(id, policy, now),
            (_, Reply::NotSent(detail)) => self.not_sent(id, detail, now),
            (_, Reply::Transient(detail)) => self.transient(id, step, detail, policy, now),
            (_, Reply::Mismatch(detail)) => {
                let mut outcome = self.in_doubt(id, &detail, policy, now);
                outcome.effects.push(Effect::Alarm(detail));
                outcome
            }
            (_, Reply::Unknown(detail) | Reply::Refused(detail)) => self.in_doubt(id, &detail, policy, now),
            (_, Reply::Declined | Reply::SoftDeclined) => self.in_doubt(id, "declined", policy, now),
        }
    }

    fn not_sent(&mut self, id: Uuid, detail: String, now: OffsetDateTime) -> Outcome {
        if let Some(attempt) = self.attempt_mut(id) {
            attempt.detail = detail;
            attempt.due_at = now + BREAKER_WAIT;
        }
        Outcome { effects: vec![], again: Some(BREAKER_WAIT) }
    }

    fn transient(&mut self, id: Uuid, step: Step, detail: String, policy: &Policy, now: OffsetDateTime) -> Outcome {
        let Some(attempt) = self.attempt_mut(id) else { return Outcome::default() };
        attempt.tries += 1;
        attempt.detail = detail;
        if step != Step::Authorize && attempt.tries >= policy.tries {
            return Outcome { effects: self.stuck(id), again: None };
        }
        let wait = policy.before_retry(attempt.tries);
        // An authorisation is in a hurry: its order holds stock.
        let wait = if step == Step::Authorize { wait.min(policy.scale.of(Duration::from_secs(60))) } else { wait };
        attempt.due_at = now + wait;
        Outcome { effects: vec![], again: Some(wait) }
    }

    /// Nobody knows whether it happened: it is looked up until somebody does.
    pub(super) fn in_doubt(&mut self, id: Uuid, detail: &str, policy: &Policy, now: OffsetDateTime) -> Outcome {
        let wait = policy.before_look_up(0);
        let Some(attempt) = self.attempt_mut(id) else { return Outcome::default() };
        attempt.state = AttemptState::Unknown;
        attempt.tries += 1;
        attempt.looks = 0;
        attempt.sent_at = Some(now);
        attempt.due_at = now + wait;
        detail.clone_into(&mut attempt.detail);
        let mut effects = vec![Effect::LookUp(id, wait)];
        if attempt.step == Step::Authorize && self.view.status == Status::Pending {
            self.set_status(Status::Unknown);
            if !std::mem::replace(&mut self.unknown_told, true) {
                effects.push(self.emit(EventKind::Unknown));
            }
        }
        Outcome { effects, again: None }
    }

    /// The step happened. The order of the rules: the ledger, the amounts, the news, and then what the order wants next.
    pub(super) fn done(&mut self, id: Uuid, amount: i64, now: OffsetDateTime) -> Outcome {
        let Some(attempt) = self.attempt(id) else { return Outcome::default() };
        let (step, key) = (attempt.step, attempt.key.clone());
        let stuck_before = self.is_stuck(step);
        let mut effects = Vec::new();
        if step == Step::Void {
            effects.extend(self.hold_found_while_voiding(amount));
        }
        if amount > 0 {
            effects.push(Effect::Post(Posting { attempt: id, step, key, amount }));
        }
        self.settle_attempt(id, AttemptState::Done, "");
        if stuck_before && !self.is_stuck(step) {
            effects.push(Effect::CloseCase(step));
        }
        match step {
            Step::Authorize => {
                self.set_status(Status::Authorized);
                effects.push(self.emit(EventKind::Authorized));
                if self.cancelled {
                    effects.extend(self.give_back(now));
                }
            }
            Step::Capture => {
                self.view.captured += amount;
                self.set_status(Status::Captured);
                effects.push(self.emit(EventKind::Processed));
                if self.cancelled {
                    effects.extend(self.give_back(now));
                }
            }
            Step::Void => effects.extend(self.end_without_money(EXPIRED)),
            Step::Refund => {
                self.view.refunded += amount;
                self.set_status(self.status_of_refunds());
                effects.push(self.emit(EventKind::Refunded));
            }
        }
        Outcome { effects, again: None }
    }

    fn is_stuck(&self, step: Step) -> bool {
        self.attempts.iter().any(|a| a.step == step && a.state == AttemptState::Stuck)
    }

    fn status_of_refunds(&self) -> Status {
        match () {
            () if self.attempts.iter().any(|a| a.state == AttemptState::Stuck) => Status::NeedsOperator,
            () if self.view.refunded == self.view.captured => Status::Refunded,
            () => Status::Captured,
        }
    }

    /// A void may give back a hold that we never learned of; then the hold is posted first, so that the ledgers agree.
    fn hold_found_while_voiding(&mut self, released: i64) -> Option<Effect> {
        let held = self.attempts.iter().any(|a| a.step == Step::Authorize && a.state == AttemptState::Done);
        let latest = self.attempts.iter().rfind(|a| a.step == Step::Authorize)?;
        if held || released == 0 {
            return None;
        }
        Some(Effect::Post(Posting { attempt: latest.id, step: Step::Authorize, key: latest.key.clone(), amount: released }))
    }

    pub(super) fn declined(&mut self, id: Uuid) -> Outcome {
        self.settle_attempt(id, AttemptState::Declined, "declined");
        Outcome { effects: self.end_without_money(DECLINED), again: None }
    }

    /// Another attempt with a new key, as long as there is time.
    pub(super) fn soft_declined(&mut self, id: Uuid, policy: &Policy, now: OffsetDateTime) -> Outcome {
        self.settle_attempt(id, AttemptState::SoftDeclined, "soft declined");
        let epoch = self.attempt(id).map_or(1, |a| a.epoch);
        let wait = policy.after_soft_decline(epoch);
        if self.cancelled || now + wait > self.view.created_at + policy.deadline {
            return Outcome { effects: self.end_without_money(EXPIRED), again: None };
        }
        self.view.status = Status::Pending;
        let next = self.open(Step::Authorize, self.view.amount, wait, now);
        Outcome { effects: vec![next], again: None }
    }

    /// Gives up; one case, one event.
    pub(super) fn stuck(&mut self, id: Uuid) -> Vec<Effect> {
        let Some(attempt) = self.attempt_mut(id) else { return vec![] };
        attempt.state = AttemptState::Stuck;
        let (step, reason) = (attempt.step, format!("given up after {} tries: {}", attempt.tries, attempt.detail));
        self.set_status(Status::NeedsOperator);
        vec![Effect::OpenCase(step, reason), self.emit(EventKind::Stuck(step))]
    }
}
