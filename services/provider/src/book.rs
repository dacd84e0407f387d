//! What the provider knows: every record in order, and each payment folded from them. Pure; nothing here waits.

use crate::behaviour::{Behaviour, Mode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The amount is held.
    Authorized,
    /// Refused for good.
    Declined,
    /// Refused for now.
    SoftDeclined,
    /// The amount was taken.
    Captured,
    /// The hold was given back, or an unknown reference was closed.
    Voided,
    /// The amount was given back.
    Refunded,
    /// The step was not possible; kept so that the same key gets the same answer.
    Refused,
}

impl Kind {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorized => "authorized",
            Self::Declined => "declined",
            Self::SoftDeclined => "soft_declined",
            Self::Captured => "captured",
            Self::Voided => "voided",
            Self::Refunded => "refunded",
            Self::Refused => "refused",
        }
    }
}

/// One line of the ledger: what happened and what was answered, in one write.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// 1, 2, 3 ...
    pub sequence: u64,
    /// Unix time in milliseconds.
    pub at: i64,
    /// What happened.
    pub kind: Kind,
    /// The shop's reference of the payment.
    pub reference: String,
    /// The shop's reference of the refund.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_reference: Option<String>,
    /// How much, in minor units.
    pub amount_minor: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// The idempotency key of the request.
    pub key: String,
    /// What the request was, to tell another request with the same key.
    pub fingerprint: String,
    /// How this payment behaves.
    pub behaviour: Behaviour,
    /// The HTTP status answered.
    pub status: u16,
    /// The body answered.
    pub answer: Value,
}

/// A payment as the provider sees it.
#[derive(Debug, Clone, Default)]
pub struct Account {
    pub currency: String,
    pub authorized: i64,
    pub captured: i64,
    pub refunded: i64,
    pub voided: bool,
    pub last: Option<Kind>,
    pub behaviour: Behaviour,
    pub refunds: Vec<(String, i64)>,
}

impl Account {
    fn apply(&mut self, record: &Record) {
        if record.kind == Kind::Refused {
            return;
        }
        self.last = Some(record.kind);
        match record.kind {
            Kind::Authorized => {
                self.authorized += record.amount_minor;
                self.currency.clone_from(&record.currency);
                self.behaviour = record.behaviour;
            }
            Kind::Captured => self.captured += record.amount_minor,
            Kind::Voided => self.voided = true,
            Kind::Refunded => {
                self.refunded += record.amount_minor;
                self.refunds.push((record.refund_reference.clone().unwrap_or_default(), record.amount_minor));
            }
            Kind::Declined | Kind::SoftDeclined | Kind::Refused => {}
        }
    }

    /// The answer to a look-up.
    pub fn view(&self, reference: &str) -> Value {
        let refunds: Vec<Value> = self.refunds.iter().map(|(id, amount)| json!({"refundReference": id, "amountMinor": amount})).collect();
        json!({"reference": reference, "state": self.state(), "amountMinor": self.authorized, "currency": self.currency,
            "capturedMinor": self.captured, "refundedMinor": self.refunded, "refunds": refunds})
    }

    fn state(&self) -> &'static str {
        match self.last {
            _ if self.voided => "voided",
            _ if self.captured > 0 => "captured",
            _ if self.authorized > 0 => "authorized",
            Some(Kind::SoftDeclined) => "soft_declined",
            _ => "declined",
        }
    }
}

/// What a request wants.
#[derive(Debug, Clone)]
pub enum Step {
    Authorize { amount_minor: i64, currency: String, behaviour: Behaviour },
    Capture { amount_minor: i64, currency: String },
    Void,
    Refund { refund_reference: String, amount_minor: i64, currency: String },
}

/// What came of a request.
#[derive(Debug)]
pub enum Verdict {
    /// It is new; the record has to be written before it is answered.
    Recorded(Box<Record>),
    /// The same request was answered before.
    Replayed(Box<Record>),
    /// The key belongs to another request.
    KeyReused,
    /// The behaviour asks for a failure that leaves no trace.
    Failing(u16),
}

/// All payments and all records.
#[derive(Debug, Default)]
pub struct Book {
    records: Vec<Record>,
    accounts: HashMap<String, Account>,
    by_key: HashMap<String, usize>,
    strikes: HashMap<(String, Mode), u32>,
    /// By what stands before the first dot of a reference: the attempts of one order count together.
    soft_declines: HashMap<String, u32>,
}

impl Book {
    /// Adds a record that was decided before, as when the file is read again.
    pub fn replay(&mut self, record: Record) {
        self.accounts.entry(record.reference.clone()).or_default().apply(&record);
        if record.kind == Kind::SoftDeclined {
            *self.soft_declines.entry(root(&record.reference)).or_default() += 1;
        }
        self.by_key.insert(record.key.clone(), self.records.len());
        self.records.push(record);
    }

    /// All records after the one with this sequence, at most `limit`.
    pub fn records(&self, after: u64, limit: usize) -> &[Record] {
        let from = usize::try_from(after).unwrap_or(usize::MAX).min(self.records.len());
        &self.records[from..self.records.len().min(from.saturating_add(limit))]
    }

    /// The payment with this reference; a reference of which only refusals are known is not found.
    pub fn account(&self, reference: &str) -> Option<&Account> {
        self.accounts.get(reference).filter(|account| account.last.is_some())
    }

    /// Decides a request, once for every key.
    pub fn decide(&mut self, key: &str, fingerprint: &str, reference: &str, step: &Step, at: i64) -> Verdict {
        if let Some(known) = self.by_key.get(key).map(|at| &self.records[*at]) {
            return if known.fingerprint == fingerprint { Verdict::Replayed(Box::new(known.clone())) } else { Verdict::KeyReused };
        }
        if let Some(status) = self.strike(reference, step) {
            return Verdict::Failing(status);
        }
        let account = self.accounts.get(reference).cloned().unwrap_or_default();
        let soft_declines = self.soft_declines.get(&root(reference)).copied().unwrap_or_default();
        let decision = decide(&account, soft_declines, step);
        let answer = decision.answer(reference);
        let record = Record {
            sequence: self.records.len() as u64 + 1,
            at,
            kind: decision.kind,
            reference: reference.to_owned(),
            refund_reference: decision.refund_reference,
            amount_minor: decision.amount_minor,
            currency: decision.currency,
            key: key.to_owned(),
            fingerprint: fingerprint.to_owned(),
            behaviour: decision.behaviour,
            status: decision.status,
            answer,
        };
        self.replay(record.clone());
        Verdict::Recorded(Box::new(record))
    }

    /// Counts down a behaviour that makes this step fail without a record.
    fn strike(&mut self, reference: &str, step: &Step) -> Option<u16> {
        let known = self.accounts.get(reference).map(|account| account.behaviour).unwrap_or_default();
        let (behaviour, status) = match step {
            Step::Authorize { behaviour, .. } if behaviour.mode == Mode::Error500 => (*behaviour, 500),
            Step::Authorize { behaviour, .. } if behaviour.mode == Mode::Unavailable => (*behaviour, 503),
            Step::Capture { .. } if known.mode == Mode::CaptureFails => (known, 503),
            Step::Void if known.mode == Mode::VoidFails => (known, 503),
            Step::Refund { .. } if known.mode == Mode::RefundFails => (known, 503),
            _ => return None,
        };
        let struck = self.strikes.entry((reference.to_owned(), behaviour.mode)).or_default();
        (*struck < behaviour.strikes()).then(|| {
            *struck += 1;
            status
        })
    }
}

struct Decision {
    kind: Kind,
    status: u16,
    amount_minor: i64,
    currency: String,
    behaviour: Behaviour,
    refund_reference: Option<String>,
    refusal: Option<&'static str>,
}

impl Decision {
    fn answer(&self, reference: &str) -> Value {
        match self.refusal {
            Some(reason) => json!({"reference": reference, "error": reason}),
            None => json!({"reference": reference, "state": self.kind.name(), "amountMinor": self.amount_minor, "currency": self.currency,
                "refundReference": self.refund_reference}),
        }
    }
}

fn root(reference: &str) -> String {
    reference.split('.').next().unwrap_or_default().to_owned()
}

fn decide(account: &Account, soft_declines: u32, step: &Step) -> Decision {
    let done = |kind, amount_minor, currency: &str, behaviour| Decision {
        kind,
        status: 200,
        amount_minor,
        currency: currency.to_owned(),
        behaviour,
        refund_reference: None,
        refusal: None,
    };
    let refuse = |reason| Decision { status: 409, refusal: Some(reason), ..done(Kind::Refused, 0, &account.currency, account.behaviour) };
    match step {
        Step::Authorize { .. } if account.voided => refuse("reference_closed"),
        Step::Authorize { amount_minor, currency, behaviour } => match behaviour.mode {
            Mode::Decline => done(Kind::Declined, *amount_minor, currency, *behaviour),
            Mode::SoftDecline if soft_declines < behaviour.strikes() => done(Kind::SoftDeclined, *amount_minor, currency, *behaviour),
            Mode::WrongAmount => done(Kind::Authorized, amount_minor.saturating_add(1), currency, *behaviour),
            _ => done(Kind::Authorized, *amount_minor, currency, *behaviour),
        },
        Step::Capture { .. } if account.voided || account.authorized == 0 => refuse("not_authorized"),
        Step::Capture { currency, .. } if *currency != account.currency => refuse("currency_mismatch"),
        Step::Capture { amount_minor, .. } if *amount_minor > account.authorized - account.captured => refuse("more_than_authorized"),
        Step::Capture { amount_minor, currency } => done(Kind::Captured, *amount_minor, currency, account.behaviour),
        Step::Void if account.captured > 0 => refuse("already_captured"),
        Step::Void => done(Kind::Voided, account.authorized, &account.currency, account.behaviour),
        Step::Refund { currency, .. } if *currency != account.currency => refuse("currency_mismatch"),
        Step::Refund { amount_minor, .. } if *amount_minor > account.captured - account.refunded => refuse("more_than_captured"),
        Step::Refund { refund_reference, amount_minor, currency } => Decision {
            refund_reference: Some(refund_reference.clone()),
            ..done(Kind::Refunded, *amount_minor, currency, account.behaviour)
        },
    }
}
