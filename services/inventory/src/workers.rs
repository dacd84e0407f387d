//! Durable steps.

use crate::{app::Reservations, domain::Command, error::Error};
use chassis::{
    error::Fault,
    pg::Db,
    work::{self, Item, Verdict, Worker},
};
use mercato_chassis as chassis;
use std::time::Duration;

/// Give back what an order holds.
pub const RELEASE: &str = "release";

const UNIT: Duration = Duration::from_secs(2);

/// Releases the holds of cancelled orders.
pub struct Releases {
    /// The database.
    pub db: Db,
    /// Where the release happens.
    pub reservations: Reservations,
}

#[async_trait::async_trait]
impl Worker for Releases {
    fn kinds(&self) -> &'static [&'static str] {
        &[RELEASE]
    }

    async fn run(&self, item: &Item) -> Verdict {
        match self.release(item).await {
            Ok(()) => Verdict::Done,
            Err(error) => Verdict::Again { after: backoff(item.attempt), error: error.to_string() },
        }
    }
}

impl Releases {
    async fn release(&self, item: &Item) -> Result<(), Error> {
        self.reservations.submit(Command::Release(item.subject)).await?;
        let item = item.clone();
        let finished = self.db.uow_within::<_, Fault, _>(UNIT, move |tx| {
            let item = item.clone();
            Box::pin(async move { if work::finish(tx, &item).await? { Ok(()) } else { Err(work::lost()) } })
        });
        Ok(finished.await?)
    }
}

/// 100 ms doubling to a minute; it never gives up, because stock would stay away.
fn backoff(attempt: i32) -> Duration {
    let doublings = u32::try_from(attempt.clamp(1, 11) - 1).unwrap_or(0);
    Duration::from_millis(100 * 2_u64.pow(doublings)).min(Duration::from_secs(60))
}
