//! Periodic work: finding what was lost, comparing ledgers, and the gauges of the alarms.

use crate::{
    app::{self, Payments},
    metrics, store,
};
use mercato_chassis::{Fault, jobs::Job, work};
use std::time::Duration;
use uuid::Uuid;

/// An open attempt this far behind its time has lost its work item.
const LOST: Duration = Duration::from_secs(30);
const AT_ONCE: i64 = 500;

/// All jobs of this service.
pub fn all(payments: &Payments, reconcile_every: Duration) -> Vec<Job> {
    let (scanned, compared, counted) = (payments.clone(), payments.clone(), payments.clone());
    vec![
        Job::new("payment-scan", Duration::from_secs(15), move || scan(scanned.clone())),
        Job::new("payment-reconcile", reconcile_every, move || reconcile(compared.clone())),
        Job::new("payment-gauges", Duration::from_secs(10), move || gauges(counted.clone())),
    ]
}

/// Gives open attempts without a living work item a new one. Nobody knows how far the old one came, so it is a look-up.
pub async fn scan(payments: Payments) -> Result<(), Fault> {
    for attempt in store::lost_attempts(payments.db.read(), LOST, AT_ONCE).await? {
        revive(&payments, attempt).await?;
    }
    Ok(())
}

async fn revive(payments: &Payments, id: Uuid) -> Result<(), Fault> {
    let attempt = [id];
    let (found, _) = payments.db.look(|connection| Box::pin(async move { store::by_attempts(connection, &attempt).await })).await?;
    let Some(order) = found.first().map(|payment| payment.view.order_id) else { return Ok(()) };
    let policy = payments.policy;
    let unit = payments.db.uow_within(Duration::from_secs(2), move |tx| {
        Box::pin(async move {
            let mut unit = store::Unit::load(tx, &[order]).await?;
            let effects = unit.change(order, |payment, now| payment.lost(id, LOST, &policy, now)).unwrap_or_default();
            if effects.is_empty() {
                return Ok(());
            }
            tracing::warn!(%order, "an open step had no work item");
            metrics::REVIVED.one([]);
            unit.follow(order, effects)?;
            unit.save(tx).await
        })
    });
    unit.await
}

async fn reconcile(payments: Payments) -> Result<(), Fault> {
    let differences = app::reconcile(&payments.db, &*payments.provider).await?;
    metrics::DIFFERENCES.set([], differences.len() as f64);
    for app::Difference { key, step, side, ours, theirs } in differences.iter().take(1000) {
        tracing::error!(%key, step, ?side, ours, theirs, "our ledger differs from the provider's");
    }
    Ok(())
}

async fn gauges(payments: Payments) -> Result<(), Fault> {
    let (cases, unknown, oldest) = store::open_cases(payments.db.read()).await?;
    metrics::CASES.set([], cases as f64);
    metrics::UNKNOWN.set([], unknown as f64);
    metrics::UNKNOWN_OLDEST.set([], oldest.max(0.0));
    let overdue = work::overdue(payments.db.read(), &[], Duration::from_secs(60), AT_ONCE).await?;
    metrics::OVERDUE.set([], overdue.len() as f64);
    Ok(())
}
