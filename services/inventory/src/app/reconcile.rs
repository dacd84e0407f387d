//! Does the ledger explain the stock?

use crate::store::reconcile;
use chassis::{error::Fault, pg::Db};
use mercato_chassis as chassis;

pub use reconcile::Difference;

/// How many differences are logged one by one.
const LOGGED: usize = 20;

/// Compares stock with the ledger and with the holds; empty when all is well.
pub async fn reconcile(db: &Db) -> Result<Vec<Difference>, Fault> {
    reconcile::differences(db.read()).await
}

/// Reconciles, and tells operators when something is wrong: the metric `mercato_inventory_ledger_differences` and the error log.
pub async fn report(db: &Db) -> Result<(), Fault> {
    let differences = reconcile(db).await?;
    crate::metrics::DIFFERENCES.set([], differences.len() as f64);
    for difference in differences.iter().take(LOGGED) {
        tracing::error!(
            product_id = %difference.product,
            warehouse_id = difference.warehouse,
            on_hand = difference.on_hand,
            available = difference.available,
            ledger_level = difference.ledger_level,
            ledger_available = difference.ledger_available,
            held = difference.held,
            differences = differences.len(),
            "stock is not what its ledger and its holds say"
        );
    }
    Ok(())
}
