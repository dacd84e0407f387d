//! One step of a payment: the intent is stored, the provider is called outside any transaction, and the result is stored together
//! with everything that follows from it.

use super::Payments;
use crate::{
    domain::{AttemptState, Begin, Outcome, Payment, Reply, Step},
    provider::Ask,
    store::{self, Unit},
};
use futures_util::future::BoxFuture;
use mercato_chassis::{
    Fault,
    batch::{Batcher, together},
    pg::Db,
    plant,
    tasks::Tasks,
    telemetry,
    work::{self, Item, Verdict},
};
use sqlx::PgConnection;
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use uuid::Uuid;

/// Between two transactions under load.
const PACE: Duration = Duration::from_millis(40);
/// Time for the transactions around a call; generous, because their loss costs a look-up.
const BUDGET: Duration = Duration::from_secs(4);

type Change = Box<dyn Fn(&mut Payment, OffsetDateTime) -> Outcome + Send + Sync>;

/// A payment as it was read, and the database's time then; nothing when the attempt has none.
type Seen = Option<(Arc<Payment>, OffsetDateTime)>;

/// The entrance to the loop that reads the payments of attempts.
pub(super) type Reading = Batcher<Uuid, Result<Seen, Fault>>;

/// Starts the loop that reads.
pub(super) fn reading(db: &Db, tasks: &Tasks) -> Reading {
    let db = db.clone();
    Batcher::paced(tasks, "payment reads", 1024, 256, PACE, move |ids: Vec<Uuid>| {
        let db = db.clone();
        Box::pin(async move {
            let attempts = ids.clone();
            match db.look(|connection| Box::pin(async move { store::by_attempts(connection, &attempts).await })).await {
                Ok((payments, now)) => {
                    let payments: Vec<Arc<Payment>> = payments.into_iter().map(Arc::new).collect();
                    let of = |id: &Uuid| payments.iter().find(|p| p.attempt(*id).is_some()).map(|p| (p.clone(), now));
                    ids.iter().map(|id| Ok(of(id))).collect()
                }
                Err(fault) => ids.iter().map(|_| Err(fault.again())).collect(),
            }
        })
    })
}

/// What a step found out, on its way into the store.
pub(super) struct Settled {
    item: Item,
    order: Uuid,
    change: Change,
    span: tracing::Span,
}

/// The entrance to the loop that stores results: what comes while one transaction commits goes into the next one together. The output
/// tells when the item is wanted again.
pub(super) type Settling = Batcher<Arc<Settled>, Result<Option<Duration>, Fault>>;

/// Starts the loop that stores.
pub(super) fn settling(db: &Db, tasks: &Tasks) -> Settling {
    let db = db.clone();
    Batcher::paced(tasks, "payment steps", 1024, 256, PACE, move |batch| {
        let db = db.clone();
        Box::pin(together(batch, move |part| {
            let db = db.clone();
            Box::pin(async move { db.uow_within(BUDGET, move |tx| settle(tx, part.clone())).await })
        }))
    })
}

/// Applies changes under the payments' locks, each in its own trace, and ends their items. A lost lease undoes the whole transaction; the
/// items are then tried in halves, until the lost one fails alone.
fn settle(tx: &mut PgConnection, batch: Vec<Arc<Settled>>) -> BoxFuture<'_, Result<Vec<Option<Duration>>, Fault>> {
    Box::pin(async move {
        let mut orders: Vec<Uuid> = batch.iter().map(|settled| settled.order).collect();
        orders.sort_unstable();
        orders.dedup();
        let mut unit = Unit::load(tx, &orders).await?;
        let mut again = Vec::with_capacity(batch.len());
        for settled in &batch {
            let outcome = settled.span.in_scope(|| {
                let outcome = unit.change(settled.order, &settled.change).ok_or_else(work::lost)?;
                unit.follow(settled.order, outcome.effects)?;
                Ok::<_, Fault>(outcome.again)
            });
            again.push(outcome?);
        }
        unit.save(tx).await?;
        let ended: Vec<&Item> = batch.iter().zip(&again).filter(|(_, again)| again.is_none()).map(|(s, _)| &s.item).collect();
        if work::finish_all(tx, &ended).await?.iter().all(|held| *held) { Ok(again) } else { Err(work::lost()) }
    })
}

impl Payments {
    /// Runs a work item: does a step, or looks up what came of it.
    pub async fn run(&self, item: &Item) -> Verdict {
        let outcome = match Step::of_name(&item.kind) {
            Some(_) => self.step(item).await,
            None => self.look_up(item).await,
        };
        outcome.unwrap_or_else(|fault| {
            // Conflicts and restarts of the database: the item stays, and what was asked is asked again under the same key.
            Verdict::Again { after: Duration::from_millis(500), error: fault.to_string() }
        })
    }

    async fn step(&self, item: &Item) -> Result<Verdict, Fault> {
        let id = item.subject;
        let written = if item.attempt == 1 { self.fresh.take(id) } else { None };
        let seen = match written {
            Some(seen) => Some(seen),
            None => self.reading.submit(id).await??,
        };
        let Some((payment, now)) = seen else { return self.drop_item(item).await };
        let first_run = item.attempt == 1;
        let policy = self.policy;
        match Payment::clone(&payment).begin(id, first_run, &policy, now) {
            Begin::Skip => self.drop_item(item).await,
            Begin::Changed(_) => {
                // Decided again under the lock.
                let change = move |payment: &mut Payment, now| match payment.begin(id, first_run, &policy, now) {
                    Begin::Changed(outcome) => outcome,
                    Begin::Skip => Outcome::default(),
                    Begin::Send => Outcome { effects: vec![], again: Some(Duration::ZERO) },
                };
                self.store(item, payment.view.order_id, Box::new(change)).await
            }
            Begin::Send => {
                plant::crash_point("C-08");
                let reply = self.call(&payment, id).await;
                plant::crash_point("C-09");
                let change = move |payment: &mut Payment, now| payment.reply(id, reply.clone(), &policy, now);
                self.store(item, payment.view.order_id, Box::new(change)).await
            }
        }
    }

    async fn look_up(&self, item: &Item) -> Result<Verdict, Fault> {
        let id = item.subject;
        let Some((payment, _)) = self.reading.submit(id).await?? else { return self.drop_item(item).await };
        let in_doubt = |state| matches!(state, AttemptState::Unknown | AttemptState::Stuck);
        if !payment.attempt(id).is_some_and(|attempt| in_doubt(attempt.state)) {
            return self.drop_item(item).await;
        }
        let sight = self.provider.look_up(&payment.reference()).await;
        let policy = self.policy;
        let change = move |payment: &mut Payment, now| payment.looked_up(id, sight.clone(), &policy, now);
        self.store(item, payment.view.order_id, Box::new(change)).await
    }

    async fn call(&self, payment: &Payment, id: Uuid) -> Reply {
        let Some(attempt) = payment.attempt(id) else { return Reply::NotSent("the attempt is gone".to_owned()) };
        let ask = Ask {
            reference: payment.reference(),
            key: if plant::bug("bug-10") { format!("{}:{}", attempt.key, Uuid::now_v7()) } else { attempt.key.clone() },
            amount: attempt.amount,
            currency: payment.view.currency.clone(),
        };
        match attempt.step {
            Step::Authorize => self.provider.authorize(&ask, &payment.view.method, &payment.token).await,
            Step::Capture => self.provider.capture(&ask).await,
            Step::Void => {
                let held = |a: &crate::domain::Attempt| a.step == Step::Authorize && a.state == AttemptState::Done;
                self.provider.void(&ask, payment.attempts.iter().any(held)).await
            }
            Step::Refund => self.provider.refund(&ask).await,
        }
    }

    /// Applies a change under the payment's lock, fenced by the item's lease.
    async fn store(&self, item: &Item, order: Uuid, change: Change) -> Result<Verdict, Fault> {
        telemetry::note("mercato.order_id", order);
        let settled = Settled { item: item.clone(), order, change, span: tracing::Span::current() };
        Ok(match self.settling.submit(Arc::new(settled)).await?? {
            None => Verdict::Done,
            Some(after) => Verdict::Again { after, error: "not decided yet, see the attempt".to_owned() },
        })
    }

    async fn drop_item(&self, item: &Item) -> Result<Verdict, Fault> {
        let owned = item.clone();
        let unit = self.db.uow_within(BUDGET, move |tx| {
            let item = owned.clone();
            Box::pin(async move { if work::finish(tx, &item).await? { Ok(()) } else { Err(work::lost()) } })
        });
        unit.await?;
        Ok(Verdict::Done)
    }
}
