//! One thing asked of the provider.

use time::OffsetDateTime;
use uuid::Uuid;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Hold the amount.
    Authorize,
    /// Take what is held.
    Capture,
    /// Give the hold back.
    Void,
    /// Give taken money back.
    Refund,
}

impl Step {
    /// Its name, in the store, in work items and in provider keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Capture => "capture",
            Self::Void => "void",
            Self::Refund => "refund",
        }
    }

    /// The step with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Authorize, Self::Capture, Self::Void, Self::Refund].into_iter().find(|step| step.name() == name)
    }
}

/// Where an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptState {
    /// Meant; it may be asked at any time, or asked again with the same key.
    Intent,
    /// Asked, and nobody told what came of it; it is looked up.
    Unknown,
    /// Done.
    Done,
    /// Refused for good.
    Declined,
    /// Refused for now; another epoch follows.
    SoftDeclined,
    /// No longer wanted, and certain not to have happened.
    Abandoned,
    /// Given up; a person has to look.
    Stuck,
}

impl AttemptState {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Intent, "INTENT"),
        (Self::Unknown, "UNKNOWN"),
        (Self::Done, "DONE"),
        (Self::Declined, "DECLINED"),
        (Self::SoftDeclined, "SOFT_DECLINED"),
        (Self::Abandoned, "ABANDONED"),
        (Self::Stuck, "STUCK"),
    ];

    /// Its name in the store.
    pub fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }

    /// The state with this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, n)| *n == name).map(|(state, _)| state)
    }

    /// Whether it may still happen.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Intent | Self::Unknown | Self::Stuck)
    }
}

/// One thing asked of the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its id; also the ledger transaction it posts.
    pub id: Uuid,
    /// What is asked.
    pub step: Step,
    /// 1 for the first attempt of a step, 2 for the next.
    pub epoch: i32,
    /// The provider's idempotency key, derived and never random: `<order>:<step>:<epoch>`.
    pub key: String,
    /// How much, in minor units.
    pub amount: i64,
    /// Where it stands.
    pub state: AttemptState,
    /// Calls that failed or stayed unanswered.
    pub tries: i32,
    /// Look-ups that told nothing yet.
    pub looks: i32,
    /// What was last heard; for people.
    pub detail: String,
    /// The last call that may have reached the provider.
    pub sent_at: Option<OffsetDateTime>,
    /// When something is meant to happen next.
    pub due_at: OffsetDateTime,
}

/// Our reference of the payment an authorisation key belongs to: the order for the first epoch, `<order>.<epoch>` for later ones.
pub fn reference(order: Uuid, epoch: i32) -> String {
    if epoch <= 1 { order.to_string() } else { format!("{order}.{epoch}") }
}

/// The order of a provider key or of a reference, when it is one of ours.
pub fn reference_of_key(text: &str) -> Option<Uuid> {
    let order = text.split([':', '.']).next()?;
    Uuid::parse_str(order).ok().filter(|id| id.to_string() == order)
}
