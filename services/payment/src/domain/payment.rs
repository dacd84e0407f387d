//! The payment: how it begins, what the order makes of it, and when each step may be sent.

use super::{
    attempt::{Attempt, AttemptState, Step, reference},
    ledger::Posting,
    policy::Policy,
};
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "documented in payment.proto, which has the same names")]
pub enum Status {
    Pending,
    Authorized,
    Captured,
    Failed,
    Unknown,
    Voided,
    Refunded,
    NeedsOperator,
}

impl Status {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Pending, "PENDING"),
        (Self::Authorized, "AUTHORIZED"),
        (Self::Captured, "CAPTURED"),
        (Self::Failed, "FAILED"),
        (Self::Unknown, "UNKNOWN"),
        (Self::Voided, "VOIDED"),
        (Self::Refunded, "REFUNDED"),
        (Self::NeedsOperator, "NEEDS_OPERATOR"),
    ];

    /// Its name in the store and in the contract.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(status, _)| *status == self).map_or("", |(_, name)| name)
    }

    /// The status with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, n)| *n == name).map(|(status, _)| status)
    }
}

/// The provider's token for a means of payment. It never shows in logs.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Token(pub String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What others may know of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented in payment.proto, which has the same names; amounts in minor units")]
pub struct View {
    pub id: Uuid,
    pub order_id: Uuid,
    pub customer_id: Uuid,
    pub status: Status,
    pub amount: i64,
    pub currency: String,
    pub captured: i64,
    pub refunded: i64,
    pub method: String,
    pub failure_reason: String,
    pub created_at: OffsetDateTime,
    pub updated_at: OffsetDateTime,
}

/// One order's payment with everything asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// What others may know.
    pub view: View,
    /// The provider's token; empty once the authorisation is decided.
    pub token: Token,
    /// The order was cancelled: whatever is held or taken has to go back.
    pub cancelled: bool,
    /// `payment.unknown` was told.
    pub unknown_told: bool,
    /// Number of the latest event.
    pub version: i64,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
}

/// Events of topic `payments`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented in events.proto, which has the same names")]
pub enum EventKind {
    Initiated,
    Authorized,
    Unknown,
    Processed,
    Failed,
    Voided,
    Refunded,
    Stuck(Step),
}

/// What has to be stored beside the payment itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Tell it: kind, number, and the payment as of that moment.
    Emit(EventKind, i64, Box<View>),
    /// Write it into the ledger.
    Post(Posting),
    /// Do this step of this attempt after this time.
    Do(Step, Uuid, Duration),
    /// Look this attempt up after this time.
    LookUp(Uuid, Duration),
    /// Ask a person.
    OpenCase(Step, String),
    /// The person is no longer needed.
    CloseCase(Step),
    /// The provider's answer does not fit what was asked.
    Alarm(String),
}

/// What came of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// What has to be stored.
    pub effects: Vec<Effect>,
    /// The same work item is wanted again after this time; otherwise it is finished.
    pub again: Option<Duration>,
}

/// What a worker shall do with an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// Send it.
    Send,
    /// Nothing; it is no longer open.
    Skip,
    /// Not send it; the payment changed.
    Changed(Outcome),
}

/// Why a refund is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefundRefusal {
    /// No money moved yet.
    NotCaptured,
    /// More than is left.
    TooLarge,
    /// Not more than zero.
    NotPositive,
}

/// What an order tells of its payment.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "as in Payment")]
pub struct NewPayment {
    pub order_id: Uuid,
    pub customer_id: Uuid,
    pub amount: i64,
    pub currency: String,
    pub method: String,
    pub token: Token,
}

impl Payment {
    fn blank(new: NewPayment, id: Uuid, now: OffsetDateTime) -> Payment {
        let view = View {
            id,
            order_id: new.order_id,
            customer_id: new.customer_id,
            status: Status::Pending,
            amount: new.amount,
            currency: new.currency,
            captured: 0,
            refunded: 0,
            method: new.method,
            failure_reason: String::new(),
            created_at: now,
            updated_at: now,
        };
        Payment { view, token: new.token, cancelled: false, unknown_told: false, version: 0, attempts: Vec::new() }
    }

    /// A payment begins. An order that costs nothing asks no provider.
    pub fn begin_for_order(new: NewPayment, id: Uuid, now: OffsetDateTime) -> (Payment, Vec<Effect>) {
        let mut payment = Self::blank(new, id, now);
        let mut effects = vec![payment.emit(EventKind::Initiated)];
        if payment.view.amount == 0 {
            payment.set_status(Status::Authorized);
            effects.push(payment.emit(EventKind::Authorized));
        } else {
            effects.push(payment.open(Step::Authorize, payment.view.amount, Duration::ZERO, now));
        }
        (payment, effects)
    }

    /// The order was cancelled before its payment began: it ends at once, and a later beginning finds it ended.
    pub fn ended_before_it_began(new: NewPayment, id: Uuid, now: OffsetDateTime) -> (Payment, Vec<Effect>) {
        let mut payment = Self::blank(new, id, now);
        payment.cancelled = true;
        payment.set_status(Status::Voided);
        let effects = vec![payment.emit(EventKind::Voided)];
        (payment, effects)
    }

    /// The order stands: take the money.
    pub fn order_confirmed(&mut self, now: OffsetDateTime) -> Vec<Effect> {
        let already = self.view.captured > 0 || self.attempts.iter().any(|a| a.step == Step::Capture);
        if self.cancelled || already {
            return vec![];
        }
        match self.view.status {
            Status::Authorized if self.view.amount == 0 => {
                self.set_status(Status::Captured);
                vec![self.emit(EventKind::Processed)]
            }
            Status::Authorized => vec![self.open(Step::Capture, self.view.amount, Duration::ZERO, now)],
            Status::Captured => vec![],
            other => {
                let reason = format!("the order was confirmed while the payment is {}", other.name());
                vec![Effect::OpenCase(Step::Capture, reason), self.emit(EventKind::Stuck(Step::Capture))]
            }
        }
    }

    /// The order ended: give back whatever is held or taken. What is not known is found out first.
    pub fn order_cancelled(&mut self, now: OffsetDateTime) -> Vec<Effect> {
        if std::mem::replace(&mut self.cancelled, true) {
            return vec![];
        }
        let wake = |attempt: &Attempt| match attempt.state {
            AttemptState::Intent => Effect::Do(attempt.step, attempt.id, Duration::ZERO),
            _ => Effect::LookUp(attempt.id, Duration::ZERO),
        };
        let open = |step| self.attempts.iter().find(|a| a.step == step && a.state.is_open());
        match self.view.status {
            Status::Failed | Status::Voided | Status::Refunded => vec![],
            _ if self.view.amount == 0 => self.give_back(now),
            _ if self.view.captured > 0 => self.give_back(now),
            _ if open(Step::Void).is_some() => vec![],
            _ => match open(Step::Authorize).or(open(Step::Capture)) {
                Some(attempt) => vec![wake(attempt)],
                None => self.give_back(now),
            },
        }
    }

    /// Starts the void or the refund of everything that is left. Nothing may be in doubt.
    pub(super) fn give_back(&mut self, now: OffsetDateTime) -> Vec<Effect> {
        let left = self.view.captured - self.view.refunded - self.refunding();
        match self.view.status {
            Status::Captured if self.view.amount == 0 => {
                self.set_status(Status::Refunded);
                vec![self.emit(EventKind::Refunded)]
            }
            _ if self.view.amount == 0 => {
                self.set_status(Status::Voided);
                vec![self.emit(EventKind::Voided)]
            }
            _ if left > 0 => vec![self.open(Step::Refund, left, Duration::ZERO, now)],
            _ if self.view.captured > 0 => vec![],
            _ => vec![self.open(Step::Void, self.view.amount, Duration::ZERO, now)],
        }
    }

    /// Minor units whose refund is under way.
    pub fn refunding(&self) -> i64 {
        self.attempts.iter().filter(|a| a.step == Step::Refund && a.state.is_open()).map(|a| a.amount).sum()
    }

    /// Starts a refund of this amount, or of all that is left.
    ///
    /// # Errors
    /// See [`RefundRefusal`].
    pub fn request_refund(&mut self, amount: Option<i64>, now: OffsetDateTime) -> Result<Vec<Effect>, RefundRefusal> {
        if self.view.captured == 0 {
            return Err(RefundRefusal::NotCaptured);
        }
        let left = self.view.captured - self.view.refunded - self.refunding();
        let wanted = amount.unwrap_or(left);
        match wanted {
            _ if amount.is_some_and(|amount| amount <= 0) => Err(RefundRefusal::NotPositive),
            _ if wanted > left || left == 0 => Err(RefundRefusal::TooLarge),
            _ => Ok(vec![self.open(Step::Refund, wanted, Duration::ZERO, now)]),
        }
    }

    /// Whether an attempt shall be sent now. `first_run` tells that no worker can have sent it before.
    pub fn begin(&mut self, id: Uuid, first_run: bool, policy: &Policy, now: OffsetDateTime) -> Begin {
        let Some(attempt) = self.attempt(id).filter(|a| a.state == AttemptState::Intent) else { return Begin::Skip };
        let never_sent = first_run && attempt.tries == 0 && attempt.sent_at.is_none();
        let late = now > self.view.created_at + policy.deadline;
        match attempt.step {
            Step::Authorize if !self.cancelled && !late => Begin::Send,
            Step::Authorize if never_sent => {
                self.settle_attempt(id, AttemptState::Abandoned, "not sent: the order ended or its time ran out");
                Begin::Changed(Outcome { effects: self.end_without_money(EXPIRED), again: None })
            }
            Step::Capture if !self.cancelled => Begin::Send,
            Step::Capture if never_sent => {
                self.settle_attempt(id, AttemptState::Abandoned, "not sent: the order was cancelled");
                Begin::Changed(Outcome { effects: self.give_back(now), again: None })
            }
            Step::Authorize | Step::Capture => Begin::Changed(self.in_doubt(id, "it may have been sent before", policy, now)),
            Step::Void | Step::Refund => Begin::Send,
        }
    }

    /// The attempt with this id.
    pub fn attempt(&self, id: Uuid) -> Option<&Attempt> {
        self.attempts.iter().find(|a| a.id == id)
    }

    /// Our reference at the provider: of the authorisation that counts, the latest.
    pub fn reference(&self) -> String {
        let epoch = self.attempts.iter().filter(|a| a.step == Step::Authorize).map(|a| a.epoch).max();
        reference(self.view.order_id, epoch.unwrap_or(1))
    }

    pub(super) fn attempt_mut(&mut self, id: Uuid) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|a| a.id == id)
    }

    pub(super) fn settle_attempt(&mut self, id: Uuid, state: AttemptState, detail: &str) {
        if let Some(attempt) = self.attempt_mut(id) {
            attempt.state = state;
            detail.clone_into(&mut attempt.detail);
        }
    }

    /// Ends a payment of which nothing is held: voided when the order was cancelled, else failed for this reason.
    pub(super) fn end_without_money(&mut self, reason: &str) -> Vec<Effect> {
        if self.cancelled {
            self.set_status(Status::Voided);
            return vec![self.emit(EventKind::Voided)];
        }
        self.set_status(Status::Failed);
        reason.clone_into(&mut self.view.failure_reason);
        vec![self.emit(EventKind::Failed)]
    }

    pub(super) fn set_status(&mut self, status: Status) {
        self.view.status = status;
        if !matches!(status, Status::Pending | Status::Unknown) {
            self.token = Token::default();
        }
    }

    pub(super) fn emit(&mut self, kind: EventKind) -> Effect {
        self.version += 1;
        Effect::Emit(kind, self.version, Box::new(self.view.clone()))
    }

    pub(super) fn open(&mut self, step: Step, amount: i64, after: Duration, now: OffsetDateTime) -> Effect {
        let epoch = self.attempts.iter().filter(|a| a.step == step).map(|a| a.epoch).max().unwrap_or(0) + 1;
        let key = format!("{}:{}:{epoch}", self.view.order_id, step.name());
        let id = mercato_chassis::ids::derived("payment attempt", &[&key]);
        let attempt = Attempt {
            id,
            step,
            epoch,
            key,
            amount,
            state: AttemptState::Intent,
            tries: 0,
            looks: 0,
            detail: String::new(),
            sent_at: None,
            due_at: now + after,
        };
        self.attempts.push(attempt);
        Effect::Do(step, id, after)
    }
}

/// `failure_reason` of a payment that was still refused when its time ran out.
pub const EXPIRED: &str = "PAYMENT_EXPIRED";
/// `failure_reason` of a payment that was refused for good.
pub const DECLINED: &str = "PAYMENT_DECLINED";
