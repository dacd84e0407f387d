//! One step of a payment: the intent is stored, the provider is called outside any transaction, and the result is stored together
//! with everything that follows from it.

use super::Payments;
use crate::{
    domain::{AttemptState, Begin, Outcome, Payment, Reply, Step},
    provider::Ask,
    store,
};
use mercato_chassis::{
    Fault,
    work::{self, Item, Verdict},
};
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use uuid::Uuid;

/// Time for the transactions around a call; generous, because their loss costs a look-up.
const BUDGET: Duration = Duration::from_secs(4);

type Change = Arc<dyn Fn(&mut Payment, OffsetDateTime) -> Outcome + Send + Sync>;

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
        let Some((payment, now)) = store::by_attempt(self.db.read(), id).await? else { return self.drop_item(item).await };
        let first_run = item.attempt == 1;
        let policy = self.policy;
        match payment.clone().begin(id, first_run, &policy, now) {
            Begin::Skip => self.drop_item(item).await,
            Begin::Changed(_) => {
                // Decided again under the lock.
                let change = move |payment: &mut Payment, now| match payment.begin(id, first_run, &policy, now) {
                    Begin::Changed(outcome) => outcome,
                    Begin::Skip => Outcome::default(),
                    Begin::Send => Outcome { effects: vec![], again: Some(Duration::ZERO) },
                };
                self.store(item, Arc::new(change)).await
            }
            Begin::Send => {
                let reply = self.call(&payment, id).await;
                let change = move |payment: &mut Payment, now| payment.reply(id, reply.clone(), &policy, now);
                self.store(item, Arc::new(change)).await
            }
        }
    }

    async fn look_up(&self, item: &Item) -> Result<Verdict, Fault> {
        let id = item.subject;
        let Some((payment, _)) = store::by_attempt(self.db.read(), id).await? else { return self.drop_item(item).await };
        let in_doubt = |state| matches!(state, AttemptState::Unknown | AttemptState::Stuck);
        if !payment.attempt(id).is_some_and(|attempt| in_doubt(attempt.state)) {
            return self.drop_item(item).await;
        }
        let sight = self.provider.look_up(&payment.reference()).await;
        let policy = self.policy;
        let change = move |payment: &mut Payment, now| payment.looked_up(id, sight.clone(), &policy, now);
        self.store(item, Arc::new(change)).await
    }

    async fn call(&self, payment: &Payment, id: Uuid) -> Reply {
        let Some(attempt) = payment.attempt(id) else { return Reply::NotSent("the attempt is gone".to_owned()) };
        let ask = Ask {
            reference: payment.reference(),
            key: attempt.key.clone(),
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
    async fn store(&self, item: &Item, change: Change) -> Result<Verdict, Fault> {
        let owned = item.clone();
        let unit = self.db.uow_within(BUDGET, move |tx| {
            let (item, change) = (owned.clone(), change.clone());
            Box::pin(async move {
                let Some((before, now)) = store::load_by_attempt(tx, item.subject).await? else { return Err(work::lost()) };
                let mut after = before.clone();
                after.view.updated_at = now;
                let outcome = change(&mut after, now);
                store::save(tx, &before, &after, &outcome.effects).await?;
                if outcome.again.is_none() && !work::finish(tx, &item).await? {
                    return Err(work::lost());
                }
                Ok(outcome.again)
            })
        });
        Ok(match unit.await? {
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
