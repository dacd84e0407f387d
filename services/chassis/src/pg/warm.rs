//! Connections that units of work hand to each other.
//!
//! The pool asks PostgreSQL for a sign of life when a connection leaves it and again when it comes back, which under load costs as much
//! as a small statement. A connection that has just ended a transaction has given its sign of life, so the next unit takes it as it is.
//! One that lay still for [`FRESH`] is asked first, within [`ANSWER`]: on a link that went silent a question without a limit would keep its
//! place in the pool for good.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Postgres};
use tokio::time::Instant;

use crate::metrics::Counter;

/// How long a connection that answered is believed to answer.
const FRESH: Duration = Duration::from_secs(1);
/// The time for a sign of life.
const ANSWER: Duration = Duration::from_millis(500);
/// How long a connection stays out of the pool, which ends those that are too old.
const OUT: Duration = Duration::from_secs(60);

struct Kept {
    connection: PoolConnection<Postgres>,
    out_since: Instant,
    answered: Instant,
}

/// A connection on loan.
pub(super) struct Loan {
    pub connection: PoolConnection<Postgres>,
    out_since: Instant,
}

impl Loan {
    /// Of a connection that just left the pool.
    pub fn new(connection: PoolConnection<Postgres>) -> Loan {
        Loan { connection, out_since: Instant::now() }
    }
}

/// The connections that wait for the next unit of work.
pub(super) struct Warm {
    kept: Mutex<Vec<Kept>>,
    most: usize,
    discarded: Counter,
}

impl Warm {
    /// Keeps `most` connections; the others go back to the pool. `discarded` counts those that are thrown away.
    pub fn new(most: usize, discarded: Counter) -> Warm {
        Warm { kept: Mutex::default(), most, discarded }
    }

    /// How many lie here.
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    /// A connection that answers, if one is kept.
    pub async fn take(&self) -> Option<Loan> {
        loop {
            let mut kept = self.lock().pop()?;
            if kept.answered.elapsed() >= FRESH && !matches!(tokio::time::timeout(ANSWER, kept.connection.ping()).await, Ok(Ok(()))) {
                self.discarded.inc();
                drop(kept.connection.detach());
                continue;
            }
            return Some(Loan { connection: kept.connection, out_since: kept.out_since });
        }
    }

    /// Takes back a connection whose transaction ended in good order.
    pub fn give(&self, loan: Loan) {
        let mut kept = self.lock();
        if kept.len() < self.most && loan.out_since.elapsed() < OUT {
            kept.push(Kept { connection: loan.connection, out_since: loan.out_since, answered: Instant::now() });
        }
    }

    /// Gives all of them back to the pool.
    pub fn clear(&self) {
        drop(std::mem::take(&mut *self.lock()));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
