//! Payments as the transaction wrote them that asked for their next step, kept until that step begins a moment later in this process: the
//! step need not read what was just written. It decides again under the payment's lock, as after any read without one.

use crate::domain::Payment;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

/// A step that begins later reads.
const FRESH: Duration = Duration::from_secs(2);
/// Payments kept at most; the steps of more read.
const MOST: usize = 2048;

struct Kept {
    payment: Arc<Payment>,
    now: OffsetDateTime,
    since: Instant,
}

/// Payments by attempt. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Fresh(Arc<Mutex<HashMap<Uuid, Kept>>>);

impl Fresh {
    /// Keeps the payments of attempts whose step was asked for, as they are at this time of the database.
    pub fn keep(&self, asked: Vec<(Uuid, Arc<Payment>)>, now: OffsetDateTime) {
        let mut kept = self.lock();
        if kept.len() + asked.len() > MOST {
            kept.retain(|_, kept| kept.since.elapsed() < FRESH);
        }
        for (attempt, payment) in asked {
            if kept.len() < MOST {
                kept.insert(attempt, Kept { payment, now, since: Instant::now() });
            }
        }
    }

    /// The payment of an attempt and the database's time then, once.
    pub fn take(&self, attempt: Uuid) -> Option<(Arc<Payment>, OffsetDateTime)> {
        let kept = self.lock().remove(&attempt)?;
        (kept.since.elapsed() < FRESH).then_some((kept.payment, kept.now))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
