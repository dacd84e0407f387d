//! Webhooks taken, many with two statements.

use super::LOOK_UP;
use mercato_chassis::{
    Fault,
    work::{self, Step},
};
use sqlx::PgConnection;
use std::collections::HashSet;
use uuid::Uuid;

/// A verified message of a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The provider's id of the message.
    pub event_id: String,
    /// Who says it.
    pub provider: &'static str,
    /// What it says.
    pub kind: String,
    /// Our reference in it.
    pub reference: String,
    /// The order of the reference, when it is one of ours.
    pub order: Option<Uuid>,
}

/// Whether the payment of any of these orders is in doubt.
pub async fn any_doubt(connection: &mut PgConnection, orders: &[Uuid]) -> Result<bool, Fault> {
    let doubt = sqlx::query_scalar!(
        r#"select exists (select from payment p join attempt a on a.payment_id = p.id
             where p.order_id = any($1) and a.state in ('UNKNOWN', 'STUCK')) as "doubt!""#,
        orders,
    );
    Ok(doubt.fetch_one(connection).await?)
}

/// Notes messages and makes the look-ups due that wait for what they are about; for each whether it is new. No payment is locked: an
/// attempt whose doubt commits meanwhile has its look-up planned by that transaction.
pub async fn take_webhooks(tx: &mut PgConnection, notes: &[&Note]) -> Result<Vec<bool>, Fault> {
    // Sorted, so that two transactions with the same messages wait for each other in one direction only.
    let mut sorted: Vec<&Note> = notes.to_vec();
    sorted.sort_by(|a, b| a.event_id.cmp(&b.event_id));
    let each = |f: fn(&Note) -> &str| sorted.iter().map(|note| f(note).to_owned()).collect::<Vec<String>>();
    let taken = sqlx::query_scalar!(
        "insert into webhook_event (event_id, provider, kind, reference)
         select * from unnest($1::text[], $2::text[], $3::text[], $4::text[]) on conflict (event_id) do nothing returning event_id",
        &each(|note| &note.event_id),
        &each(|note| note.provider),
        &each(|note| &note.kind),
        &each(|note| &note.reference),
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut taken: HashSet<String> = taken.into_iter().collect();
    let new: Vec<bool> = notes.iter().map(|note| taken.remove(&note.event_id)).collect();
    let mut orders: Vec<Uuid> = notes.iter().zip(&new).filter(|(_, new)| **new).filter_map(|(note, _)| note.order).collect();
    orders.sort_unstable();
    orders.dedup();
    if !orders.is_empty() {
        let doubtful = sqlx::query_scalar!(
            "select a.id from payment p join attempt a on a.payment_id = p.id
             where p.order_id = any($1) and a.state in ('UNKNOWN', 'STUCK')",
            &orders,
        );
        let steps: Vec<Step> = doubtful.fetch_all(&mut *tx).await?.into_iter().map(|id| Step::new(LOOK_UP, id)).collect();
        work::enqueue_all(tx, &steps).await?;
    }
    Ok(new)
}
