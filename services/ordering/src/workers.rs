//! The saga's steps that call neighbours, run from durable work items, and the timer that finds what got lost.

use crate::app::{App, check};
use crate::domain::Status;
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

/// Counts open orders by status every ten seconds; a status without one is told as 0.
pub fn gauges(db: Db) -> Job {
    // the others have nothing left to do
    const TOLD: [(Status, &str); 3] = [(Status::Pending, "PENDING"), (Status::Confirmed, "CONFIRMED"), (Status::Cancelled, "CANCELLED")];
    Job::new("order gauges", Duration::from_secs(10), move || {
        let db = db.clone();
        async move {
            let open = store::open_orders(db.read()).await?;
            for (status, name) in TOLD {
                let (count, oldest) = open.iter().find(|o| o.0 == status as i16).map_or((0, 0.0), |o| (o.1, o.2));
                metrics::OPEN.set([name], count as f64);
                metrics::OLDEST.set([name], oldest.max(0.0));
            }
            Ok(())
        }
    })
}
