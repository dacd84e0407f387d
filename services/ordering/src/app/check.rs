//! Steps of the saga that call neighbours: committing and releasing stock, and looking up a payment whose event is late.

use super::App;
use super::advance::{Advanced, Told, advance, advance_all};
use crate::domain::{Command, Order, Status};
use crate::store;
use crate::watch::Hub;
use futures_util::future::BoxFuture;
use mercato_chassis::batch::{Batcher, together};
use mercato_chassis::call::Scope;
use mercato_chassis::error::{Fault, Refusal};
use mercato_chassis::grpc::client::{Peer, peer_fault};
use mercato_chassis::pg::Db;
use mercato_chassis::plant;
use mercato_chassis::tasks::Tasks;
use mercato_chassis::work::{self, Item};
use mercato_contracts::mercato::inventory::v1::{
    CommitOutcome, CommitReservationsRequest, CommitReservationsResponse, ReleaseReservationRequest, ReservationStatus,
    reservation_service_client::ReservationServiceClient,
};
use mercato_contracts::mercato::payment::v1::{
    GetOrderPaymentRequest, Payment, payment, payment_lookup_service_client::PaymentLookupServiceClient,
};
use sqlx::PgConnection;
use std::sync::Arc;
use std::time::Duration;
use tracing::Span;
use uuid::Uuid;

/// Between two transactions of steps under load.
const PACE: Duration = Duration::from_millis(40);
/// The time one transaction of steps may take.
const BUDGET: Duration = Duration::from_secs(2);

/// Makes the hold on the stock permanent: the pivot, after which the order can only go forward.
pub async fn commit_stock(app: &App, item: &Item) -> Result<(), Fault> {
    let command = match app.commits.submit(item.subject).await?? {
        true => Command::StockCommitted,
        false => Command::StockGone,
    };
    settle(app, item, command).await
}

/// The entrance to the loop that makes holds permanent: those that come while one call is under way go into the next one together. False
/// when the order has no hold any more.
pub type Commits = Batcher<Uuid, Result<bool, Fault>>;

/// Starts the loop.
pub fn commits(inventory: Peer, tasks: &Tasks) -> Commits {
    Batcher::paced(tasks, "commits of holds", 1024, 256, PACE, move |orders: Vec<Uuid>| {
        let mut inventory = ReservationServiceClient::new(inventory.clone());
        Box::pin(async move {
            let request = CommitReservationsRequest { order_ids: orders.iter().map(Uuid::to_string).collect() };
            let answered = inventory.commit_reservations(request).await.map_err(|status| peer_fault(status, "inventory"));
            let committed = answered.and_then(|answer| committed(answer.into_inner(), orders.len()));
            match committed {
                Ok(committed) => committed.into_iter().map(Ok).collect(),
                Err(fault) => orders.iter().map(|_| Err(fault.again())).collect(),
            }
        })
    })
}

/// For each hold whether it is permanent.
fn committed(answer: CommitReservationsResponse, asked: usize) -> Result<Vec<bool>, Fault> {
    if answer.outcomes.len() != asked {
        return Err(Fault::Internal(format!("inventory answered for {} of {asked} holds", answer.outcomes.len())));
    }
    let permanent = |outcome: &CommitOutcome| match outcome.status() {
        ReservationStatus::Committed => Ok(true),
        ReservationStatus::Unspecified | ReservationStatus::Released | ReservationStatus::Expired => Ok(false),
        ReservationStatus::Active => Err(Fault::Internal(format!("inventory left the hold of order {} as it was", outcome.order_id))),
    };
    answer.outcomes.iter().map(permanent).collect()
}

/// Gives the hold on the stock back.
pub async fn release_stock(app: &App, item: &Item) -> Result<(), Fault> {
    let request = ReleaseReservationRequest { order_id: item.subject.to_string() };
    ReservationServiceClient::new(app.inventory.clone())
        .release_reservation(request)
        .await
        .map_err(|status| peer_fault(status, "inventory"))?;
    plant::crash_point("C-10");
    settle(app, item, Command::StockReleased).await
}

/// What a step found out, on its way into the store.
pub struct Found {
    item: Item,
    command: Command,
    span: Span,
}

/// The entrance to the loop that ends steps: what comes while one transaction commits goes into the next one together.
pub type Entrance = Batcher<Arc<Found>, Result<bool, Fault>>;

/// Starts the loop.
pub fn entrance(db: &Db, hub: &Arc<Hub>, tasks: &Tasks) -> Entrance {
    let (db, hub) = (db.clone(), hub.clone());
    Batcher::paced(tasks, "order steps", 1024, 256, PACE, move |batch| {
        let (db, hub) = (db.clone(), hub.clone());
        Box::pin(together(batch, move |part| {
            let (db, hub) = (db.clone(), hub.clone());
            Box::pin(async move {
                let done = db.uow_within(BUDGET, move |tx| end(tx, part.clone())).await?;
                done.iter().flatten().for_each(|advanced| tell(&hub, advanced));
                Ok(done.iter().map(Option::is_some).collect())
            })
        }))
    })
}

/// Applies what the steps found out and ends them, in one transaction; nothing for a step that somebody else has by now.
fn end(tx: &mut PgConnection, batch: Vec<Arc<Found>>) -> BoxFuture<'_, Result<Vec<Option<Advanced>>, Fault>> {
    Box::pin(async move {
        let held = work::finish_all(tx, &batch.iter().map(|f| &f.item).collect::<Vec<_>>()).await?;
        let ours = batch.iter().zip(&held).filter(|(_, held)| **held);
        let told = ours.map(|(f, _)| Told { id: f.item.subject, command: f.command.clone(), cause: f.span.clone() }).collect();
        let mut advanced = advance_all(tx, told).await?.into_iter();
        Ok(held.iter().map(|held| if *held { advanced.next() } else { None }).collect())
    })
}

async fn settle(app: &App, item: &Item, command: Command) -> Result<(), Fault> {
    let ours = app.settling.submit(Arc::new(Found { item: item.clone(), command, span: Span::current() })).await??;
    if ours { Ok(()) } else { Err(work::lost()) }
}

fn tell(hub: &Hub, advanced: &Advanced) {
    if let Advanced::Now(order) | Advanced::Refused(order) = advanced {
        hub.publish(order);
    }
}

/// Looks at an order whose timer ran out: asks payment what it knows, and makes the due step due again. Finds whatever a lost message or a
/// lost work item would have left hanging.
pub async fn check(app: &App, item: &Item) -> Result<(), Fault> {
    let known = match look_up(app, item.subject).await? {
        Some(payment) => command_of(&payment),
        None => None,
    };
    let step = item.clone();
    let advanced = app
        .db
        .uow_within(BUDGET, move |tx| {
            let (known, step) = (known.clone(), step.clone());
            Box::pin(async move {
                let mut last = None;
                if let Some(command) = known {
                    last = Some(advance(tx, step.subject, Scope::All, command).await?);
                }
                if let Some(order) = store::load_for_update(tx, step.subject, Scope::All).await?
                    && let Some(due) = waiting_step(&order)
                {
                    work::enqueue(tx, due, step.subject, Duration::ZERO).await?;
                }
                if !work::finish(tx, &step).await? {
                    return Err(work::lost());
                }
                Ok::<_, Fault>(last)
            })
        })
        .await?;
    if let Some(advanced) = advanced {
        tell(&app.hub, &advanced);
    }
    Ok(())
}

/// The step of our own that the order waits for, if it waits for one.
pub fn waiting_step(order: &Order) -> Option<&'static str> {
    use crate::domain::PaymentStatus::Authorized;
    match order.status {
        Status::Pending if order.payment_status == Authorized => Some("commit"),
        Status::Cancelled if order.stock_held => Some("release"),
        _ => None,
    }
}

async fn look_up(app: &App, order: Uuid) -> Result<Option<Payment>, Fault> {
    let request = GetOrderPaymentRequest { order_id: order.to_string() };
    match PaymentLookupServiceClient::new(app.payment.clone()).get_order_payment(request).await {
        Ok(found) => Ok(Some(found.into_inner())),
        Err(status) if Refusal::of(&status).reason == "PAYMENT_NOT_FOUND" => Ok(None),
        Err(status) => Err(peer_fault(status, "payment")),
    }
}

/// What a payment's state tells the order; `None` while it is undecided.
fn command_of(payment: &Payment) -> Option<Command> {
    use payment::Status as P;
    let payment_id = payment.id.clone();
    Some(match payment.status() {
        P::Authorized => Command::PaymentAuthorized { payment_id },
        P::Captured => Command::PaymentProcessed { payment_id },
        P::Failed => Command::PaymentFailed { payment_id, reason: payment.failure_reason.clone() },
        P::Unknown => Command::PaymentUnknown { payment_id },
        P::Voided => Command::PaymentReturned { payment_id, refunded: false },
        P::Refunded => Command::PaymentReturned { payment_id, refunded: true },
        P::NeedsOperator => Command::PaymentStuck { step: "payment".into() },
        P::Pending | P::Unspecified => return None,
    })
}
