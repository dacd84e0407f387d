//! The saga's steps that call neighbours, run from durable work items, and the timer that finds what got lost.

use crate::app::{App, check};
use crate::domain::{PaymentStatus, Status};
use crate::metrics;
use crate::store;
use async_trait::async_trait;
use mercato_chassis::error::Fault;
use mercato_chassis::jobs::Job;
use mercato_chassis::pg::Db;
use mercato_chassis::work::{self, Item, Verdict, Worker};
use std::sync::Arc;
use std::time::Duration;

/// Runs `commit`, `release` and `check`.
pub struct Steps(pub App);

#[async_trait]
impl Worker for Steps {
    fn kinds(&self) -> &'static [&'static str] {
        &["commit", "release", "check"]
    }

    async fn run(&self, item: &Item) -> Verdict {
        let done = match item.kind.as_str() {
            "commit" => check::commit_stock(&self.0, item).await,
            "release" => check::release_stock(&self.0, item).await,
            _ => check::check(&self.0, item).await,
        };
        match done {
            Ok(()) => Verdict::Done,
            Err(fault) => {
                let error = fault.to_string();
                tracing::warn!(order_id = %item.subject, step = item.kind, attempt = item.attempt, error, "a step of an order failed, trying again");
                self.note(item, &error).await;
                Verdict::Again { after: backoff(item.attempt), error }
            }
        }
    }

    /// A run holds no connection while it waits for inventory, and ends together with others.
    fn parallel(&self) -> usize {
        128
    }
}

impl Steps {
    async fn note(&self, item: &Item, error: &str) {
        let (id, text) = (item.subject, error.to_owned());
        let noted = self
            .0
            .db
            .uow(move |tx| {
                let text = text.clone();
                Box::pin(async move { store::note_error(tx, id, &text).await })
            })
            .await;
        if let Err(fault) = noted {
            tracing::warn!(order_id = %id, error = %fault, "the error of a step could not be noted");
        }
    }
}

/// 100 ms doubling to 30 s: the pivot and the compensations are tried until they succeed.
fn backoff(attempt: i32) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1).clamp(0, 9)).unwrap_or(0);
    Duration::from_millis(100 * 2_u64.pow(doublings)).min(Duration::from_secs(30))
}

/// The saga's timer: takes orders that waited too long and has each looked at.
pub fn timer(app: App) -> Job {
    Job {
        name: "order timers",
        every: Duration::from_secs(1),
        run: Arc::new(move || {
            let app = app.clone();
            Box::pin(async move {
                let due = app
                    .db
                    .uow_within(Duration::from_secs(2), |tx| {
                        Box::pin(async move {
                            let due = store::take_due(tx, 100).await?;
                            for id in &due {
                                work::enqueue(tx, "check", *id, Duration::ZERO).await?;
                            }
                            Ok::<_, Fault>(due.len())
                        })
                    })
                    .await?;
                if due > 0 {
                    metrics::TIMERS.add([], due as u64);
                    app.wake.now();
                }
                Ok(())
            })
        }),
    }
}

/// What an open order can wait for: its status and the step, as they stand in metrics.
const WAITS: [(&str, &str); 4] = [("PENDING", "authorize"), ("PENDING", "commit"), ("CONFIRMED", "capture"), ("CANCELLED", "compensate")];

/// What an open order of this status waits for, as a place in `WAITS`; nothing where nothing is left to do.
fn waits_for(status: i16, payment: i16) -> Option<usize> {
    const PENDING: i16 = Status::Pending as i16;
    const CONFIRMED: i16 = Status::Confirmed as i16;
    const CANCELLED: i16 = Status::Cancelled as i16;
    match status {
        PENDING => Some(usize::from(payment == PaymentStatus::Authorized as i16)),
        CONFIRMED => Some(2),
        CANCELLED => Some(3),
        _ => None,
    }
}

/// Counts open orders by what they wait for, every ten seconds; a step without one is told as 0.
pub fn gauges(db: Db) -> Job {
    Job::new("order gauges", Duration::from_secs(10), move || {
        let db = db.clone();
        async move {
            let mut told = [(0, 0.0_f64); WAITS.len()];
            for (status, payment, count, oldest) in store::open_orders(db.read()).await? {
                if let Some(found) = waits_for(status, payment).and_then(|place| told.get_mut(place)) {
                    *found = (found.0 + count, found.1.max(oldest));
                }
            }
            for ((status, step), (count, oldest)) in WAITS.into_iter().zip(told) {
                metrics::OPEN.set([status, step], count as f64);
                metrics::OLDEST.set([status, step], oldest);
            }
            Ok(())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_waits_for_its_payment_is_told_apart_from_one_that_waits_for_us() {
        let step = |status: Status, payment: PaymentStatus| waits_for(status as i16, payment as i16).map(|place| WAITS[place].1);
        assert_eq!(step(Status::Pending, PaymentStatus::Pending), Some("authorize"));
        assert_eq!(step(Status::Pending, PaymentStatus::Unknown), Some("authorize"));
        assert_eq!(step(Status::Pending, PaymentStatus::Authorized), Some("commit"));
        assert_eq!(step(Status::Confirmed, PaymentStatus::Authorized), Some("capture"));
        assert_eq!(step(Status::Cancelled, PaymentStatus::Failed), Some("compensate"));
        assert_eq!(step(Status::NeedsOperator, PaymentStatus::Unknown), None);
    }
}
