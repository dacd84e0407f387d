//! What clients asked and heard, in the manner of Jepsen: an operation is invoked and ends in ok, in a refusal, or stays unknown.

use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use uuid::Uuid;

/// An order as an answer showed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub customer: Uuid,
    /// The status by name, such as `PENDING`.
    pub status: String,
    /// The number of its latest event.
    pub version: i64,
    /// Product and units of each line.
    pub lines: Vec<(Uuid, i64)>,
    /// The total in minor units.
    pub total: i64,
}

/// What a request was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Reply {
    /// Done: the order, and the answer as it travelled.
    Ok {
        /// The order.
        seen: Seen,
        /// The answer's bytes.
        #[serde(skip)]
        bytes: Vec<u8>,
        /// Whether the answer said that it is a repetition.
        replayed: bool,
    },
    /// Definitely refused.
    Refused {
        /// The reason's name.
        reason: String,
        /// The HTTP status; 0 over gRPC.
        http: u16,
        /// The reason's details.
        metadata: BTreeMap<String, String>,
    },
    /// No definite answer: it may have happened or not.
    Unknown(String),
}

impl Reply {
    /// Whether it tells what happened.
    pub fn definite(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }

    /// The order, when there is one.
    pub fn seen(&self) -> Option<&Seen> {
        match self {
            Self::Ok { seen, .. } => Some(seen),
            _ => None,
        }
    }

    /// The reason of a refusal.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Refused { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Ask {
    /// Place an order: products and units, and the means of payment.
    Place {
        /// Product and units of each line.
        lines: Vec<(Uuid, i64)>,
        /// The provider's token.
        token: String,
    },
    /// Cancel an order.
    Cancel(Uuid),
    /// Read one of one's own orders.
    Read(Uuid),
    /// Read somebody else's order.
    Pry(Uuid),
}

/// Which way a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Way {
    /// JSON over HTTP, transcoded by the edge.
    Rest,
    /// gRPC through the edge.
    Grpc,
}

/// One operation with all its tries.
#[derive(Debug, Clone, Serialize)]
pub struct Op {
    /// Its number.
    pub id: usize,
    /// Who asks.
    pub subject: Uuid,
    /// Which way.
    pub way: Way,
    /// The idempotency key; empty for reads.
    pub key: String,
    /// What is asked.
    pub ask: Ask,
    /// When it was first sent, since the beginning of the run.
    pub invoked: Duration,
    /// Each try: when its outcome was known, and what it was.
    pub tries: Vec<(Duration, Reply)>,
    /// A deliberate repetition of another operation.
    pub repeated: bool,
    /// The customer asked once and went away whatever the answer was.
    pub abandoned: bool,
}

impl Op {
    /// The first definite answer.
    pub fn outcome(&self) -> Option<&Reply> {
        self.tries.iter().map(|(_, reply)| reply).find(|reply| reply.definite())
    }

    /// When the first definite answer came.
    pub fn completed(&self) -> Option<Duration> {
        self.tries.iter().find(|(_, reply)| reply.definite()).map(|(at, _)| *at)
    }

    /// Whether it places an order.
    pub fn places(&self) -> bool {
        matches!(self.ask, Ask::Place { .. })
    }
}

/// All operations of a run.
#[derive(Debug)]
pub struct History {
    began: Instant,
    ops: Mutex<Vec<Op>>,
}

impl Default for History {
    fn default() -> Self {
        Self { began: Instant::now(), ops: Mutex::default() }
    }
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Vec<Op>> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time since the beginning of the run.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Notes that an operation begins; returns its number.
    pub fn invoke(&self, subject: Uuid, way: Way, key: &str, ask: Ask, repeated: bool) -> usize {
        let invoked = self.now();
        let mut ops = self.lock();
        let id = ops.len();
        ops.push(Op { id, subject, way, key: key.to_owned(), ask, invoked, tries: Vec::new(), repeated, abandoned: false });
        id
    }

    /// Notes the outcome of one try.
    pub fn note(&self, op: usize, reply: Reply) {
        let at = self.now();
        self.lock()[op].tries.push((at, reply));
    }

    /// Notes that the customer will not come back for the answer.
    pub fn abandon(&self, op: usize) {
        self.lock()[op].abandoned = true;
    }

    /// A copy of everything so far.
    pub fn ops(&self) -> Vec<Op> {
        self.lock().clone()
    }

    /// How many orders were answered with ok.
    pub fn placed(&self) -> usize {
        self.lock().iter().filter(|op| op.places() && !op.repeated && op.outcome().and_then(Reply::seen).is_some()).count()
    }

    /// What clients heard instead of a definite answer in this time, and how often; cut short.
    pub fn unknowns(&self, from: Duration, to: Duration) -> BTreeMap<String, usize> {
        let mut heard = BTreeMap::new();
        for (at, reply) in self.lock().iter().flat_map(|op| &op.tries) {
            if let (Reply::Unknown(text), true) = (reply, (from..to).contains(at)) {
                *heard.entry(text.chars().take(160).collect()).or_default() += 1;
            }
        }
        heard
    }

    /// When the last order was asked for.
    pub fn last_asked(&self) -> Option<Duration> {
        self.lock().iter().filter(|op| op.places() && !op.repeated).map(|op| op.invoked).max()
    }

    /// The first order placed after this moment: invoked and answered with ok after it.
    pub fn first_success_after(&self, moment: Duration) -> Option<Duration> {
        let ops = self.lock();
        let ok = ops.iter().filter(|op| op.places()).flat_map(|op| &op.tries);
        ok.filter(|(at, reply)| *at > moment && reply.seen().is_some()).map(|(at, _)| *at).min()
    }
}
