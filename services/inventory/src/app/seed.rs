//! First stock in bulk, for demonstrations and tests.

use crate::{events, store::stock};
use chassis::{error::Fault, outbox, pg::Db};
use mercato_chassis as chassis;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

const CHUNK: usize = 2_000;
const BUDGET: Duration = Duration::from_secs(10);

/// Gives the product at each place a first level in `warehouse`: `level(place)` units. Products that ever had stock are left as they are, so
/// it may be repeated. It writes ledger rows and events as a count by hand would.
pub async fn seed(db: &Db, products: &[Uuid], level: impl Fn(usize) -> i64, warehouse: &str) -> Result<(), Fault> {
    let levels: Vec<i64> = (0..products.len()).map(level).collect();
    let warehouse: Arc<str> = warehouse.into();
    for (products, levels) in products.chunks(CHUNK).zip(levels.chunks(CHUNK)) {
        let (products, levels): (Arc<[Uuid]>, Arc<[i64]>) = (products.into(), levels.into());
        let warehouse = Arc::clone(&warehouse);
        db.uow_within::<_, Fault, _>(BUDGET, move |tx| {
            let (products, levels, warehouse) = (Arc::clone(&products), Arc::clone(&levels), Arc::clone(&warehouse));
            Box::pin(async move {
                let new = stock::seed(tx, &products, &levels, &warehouse).await?;
                let messages: Vec<_> = new.into_iter().map(|(product, level)| events::updated(product, level, 1)).collect();
                outbox::append(tx, &messages).await
            })
        })
        .await?;
    }
    Ok(())
}
