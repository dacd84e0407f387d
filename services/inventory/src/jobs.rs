//! Periodic work; safe on several instances, because every change goes through locked rows.

use crate::{
    app::{Reservations, report},
    domain::Command,
    error::Error,
    metrics,
    store::holds,
};
use chassis::{error::Fault, jobs::Job, pg::Db};
use futures_util::future::join_all;
use mercato_chassis as chassis;
use std::time::Duration;

/// Overdue holds taken at once; a quarter of what may wait, so that buyers are not turned away.
const AT_ONCE: i64 = 256;

/// Rounds in one run, so that a run ends.
const ROUNDS: usize = 100;

/// Ends overdue holds every second.
pub fn expiry(reservations: Reservations) -> Job {
    Job::new("reservation_expiry", Duration::from_secs(1), move || {
        let reservations = reservations.clone();
        async move { expire(&reservations).await.map(drop) }
    })
}

/// Ends the holds that are overdue now; returns how many it ended or found ended.
pub async fn expire(reservations: &Reservations) -> Result<usize, Fault> {
    let mut ended = 0;
    for _ in 0..ROUNDS {
        let overdue = reservations.overdue(AT_ONCE).await?;
        let full = overdue.len() as i64 == AT_ONCE;
        let answers = join_all(overdue.into_iter().map(|order| reservations.submit(Command::Expire(order)))).await;
        for answer in answers {
            match answer {
                Ok(_) => ended += 1,
                Err(Error::Fault(fault)) => return Err(fault),
                Err(refusal) => return Err(Fault::Internal(format!("a hold refuses to expire: {refusal}"))),
            }
        }
        if !full {
            break;
        }
    }
    Ok(ended)
}

/// Compares stock with its ledger and its holds.
pub fn reconcile(db: Db, every: Duration) -> Job {
    Job::new("stock_reconcile", every, move || {
        let db = db.clone();
        async move { report(&db).await }
    })
}

/// Counts open holds every ten seconds.
pub fn gauges(db: Db) -> Job {
    Job::new("stock_gauges", Duration::from_secs(10), move || {
        let db = db.clone();
        async move {
            let (open, overdue) = holds::open(db.read()).await?;
            metrics::HOLDS.set([], open as f64);
            metrics::OVERDUE.set([], overdue.max(0.0));
            Ok(())
        }
    })
}
