//! Placing an order: price, hold, write. What is refused leaves nothing behind; what is acknowledged is never lost.

use super::App;
use super::advance::published;
use crate::clock::now;
use crate::convert::{address_from_proto, money_from_proto, order_to_proto};
use crate::domain::pricing::{self, Offer, Wanted};
use crate::domain::{Event, Order, Placed};
use crate::error::{Error, Placement};
use crate::events::{kind, payload};
use crate::metrics;
use crate::store::{self, StoredEvent};
use futures_util::future::BoxFuture;
use mercato_chassis::batch::{Batcher, together};
use mercato_chassis::error::{Fault, Refusal, status};
use mercato_chassis::grpc::client::peer_fault;
use mercato_chassis::idempotency::{self, Answer, Key, Outcome};
use mercato_chassis::money::Money;
use mercato_chassis::outbox;
use mercato_chassis::pg::{Db, count_on_commit};
use mercato_chassis::tasks::Tasks;
use mercato_chassis::telemetry;
use mercato_contracts::mercato::catalog::v1::{
    BatchGetProductsRequest, Product, product_lookup_service_client::ProductLookupServiceClient,
};
use mercato_contracts::mercato::inventory::v1::{ReservationItem, ReserveRequest, reservation_service_client::ReservationServiceClient};
use mercato_contracts::mercato::ordering::v1 as proto;
use prost::Message;
use sqlx::PgConnection;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;
use uuid::Uuid;

/// Between two batches under load.
const PACE: Duration = Duration::from_millis(20);
/// The time one batch may take.
const BUDGET: Duration = Duration::from_secs(2);

/// Places an order for `customer`, once for this key. The order's id follows from the key, so that a try that died between the hold and
/// the order finds its own hold again (docs/adr/0004).
pub async fn place(app: &App, key: Key, customer: Uuid, request: proto::PlaceOrderRequest) -> Result<Answer<proto::Order>, Error> {
    if let Some(answered) = app.keys.find::<proto::Order>(&key).await? {
        return answered.map_err(|refusal| Fault::Replayed(Box::new(refusal)).into());
    }
    let id = key.derived_uuid("order");
    telemetry::note("mercato.order_id", id);
    let decided = match prepare(app, id, customer, &request).await {
        Ok(placed) => Ok(Draft::new(placed, request.payment_token)),
        // the same status at once and at every repetition, byte for byte
        Err(Error::Placement(refusal)) => Err(Box::new(status(Error::from(refusal)))),
        Err(other) => return Err(other),
    };
    let placing = Arc::new(Placing { key, decided });
    let answer = match app.placing.submit(placing.clone()).await? {
        Ok(true) => placing.answer(),
        Ok(false) => known(app, &placing.key, Fault::InProgress).await,
        // the key says what became of a commit whose answer was lost
        Err(Fault::CommitUnknown) => known(app, &placing.key, Fault::CommitUnknown).await,
        Err(fault) => Err(fault.into()),
    }?;
    metrics::PLACED.one([if answer.replayed { "true" } else { "false" }]);
    Ok(answer)
}

/// What is stored under the key; `otherwise` when nothing is.
async fn known(app: &App, key: &Key, otherwise: Fault) -> Result<Answer<proto::Order>, Error> {
    match idempotency::find(&app.db, key).await? {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(refusal)) => Err(Fault::Replayed(Box::new(refusal)).into()),
        None => Err(otherwise.into()),
    }
}

/// A decided order on its way into the store.
pub struct Placing {
    key: Key,
    decided: Result<Draft, Box<Status>>,
}

struct Draft {
    order: Order,
    stored: StoredEvent,
    outgoing: outbox::Event,
    answer: proto::Order,
    bytes: Vec<u8>,
}

impl Draft {
    fn new(placed: Placed, payment_token: String) -> Self {
        let order = Order::created(placed.clone(), now());
        let event = Event::Created { placed, payment_token };
        let stored = StoredEvent { version: 1, kind: kind(&event).to_owned(), payload: payload(&event, &order), at: order.created_at };
        let outgoing = published(&order, &event, &stored);
        let answer = order_to_proto(&order);
        Self { bytes: answer.encode_to_vec(), order, stored, outgoing, answer }
    }
}

impl Placing {
    fn answer(&self) -> Result<Answer<proto::Order>, Error> {
        match &self.decided {
            Ok(draft) => Ok(Answer { message: draft.answer.clone(), replayed: false }),
            Err(refusal) => Err(Fault::Replayed(refusal.clone()).into()),
        }
    }
}

/// The entrance to the loop that writes orders: those that come while one transaction commits go into the next one together.
pub type Entrance = Batcher<Arc<Placing>, Result<bool, Fault>>;

/// Starts the loop.
pub fn entrance(db: &Db, tasks: &Tasks) -> Entrance {
    let db = db.clone();
    Batcher::paced(tasks, "place orders", 1024, 256, PACE, move |batch| {
        let db = db.clone();
        Box::pin(together(batch, move |part| {
            let db = db.clone();
            Box::pin(async move { db.uow_within(BUDGET, move |tx| write(tx, part.clone())).await })
        }))
    })
}

/// One transaction for all: keys with their answers, orders, first events, outbox. For each whether its key was free.
fn write(tx: &mut PgConnection, batch: Vec<Arc<Placing>>) -> BoxFuture<'_, Result<Vec<bool>, Fault>> {
    Box::pin(async move {
        let outcome = |p: &'_ Arc<Placing>| p.decided.as_ref().map(|d| d.bytes.clone()).map_err(|s| s.as_ref().clone());
        let decided: Vec<Result<Vec<u8>, Status>> = batch.iter().map(outcome).collect();
        let outcomes: Vec<Outcome<'_>> = batch.iter().zip(&decided).map(|(p, d)| Outcome { key: &p.key, decided: d.as_deref() }).collect();
        let free = idempotency::record_all(tx, &outcomes).await?;
        let new: Vec<&Draft> = batch.iter().zip(&free).filter(|(_, free)| **free).filter_map(|(p, _)| p.decided.as_ref().ok()).collect();
        if !new.is_empty() {
            store::insert_all(tx, &new.iter().map(|d| (&d.order, &d.stored)).collect::<Vec<_>>()).await?;
            outbox::append(tx, &new.iter().map(|d| d.outgoing.clone()).collect::<Vec<_>>()).await?;
            count_on_commit(metrics::EVENTS.of(["order.created"]), new.len() as u64);
        }
        Ok(free)
    })
}

/// Prices the order and holds its stock.
async fn prepare(app: &App, id: Uuid, customer: Uuid, request: &proto::PlaceOrderRequest) -> Result<Placed, Error> {
    let wanted = wanted(request)?;
    pricing::distinct(&wanted).map_err(Placement::from)?;
    let offers = offers(app, &wanted).await?;
    let (lines, total) = pricing::price(&wanted, offers).map_err(Placement::from)?;
    let shown_total = match (&request.expected_total, request.total_amount) {
        (Some(shown), _) => Some(Money::parse(&shown.currency_code, &shown.amount).map_err(|_| Placement::AmountInvalid)?),
        (None, Some(number)) => Some(pricing::exact(number, &total).map_err(Placement::from)?),
        (None, None) => None,
    };
    pricing::agree(&wanted, &lines, total, shown_total).map_err(Placement::from)?;
    reserve(app, id, &wanted).await?;
    Ok(Placed {
        id,
        customer_id: customer,
        lines,
        total,
        address: address_from_proto(request.shipping_address.clone()),
        payment_method: request.payment_method.clone(),
    })
}

fn wanted(request: &proto::PlaceOrderRequest) -> Result<Vec<Wanted>, Error> {
    request
        .items
        .iter()
        .map(|item| {
            // the contract's rules let only UUIDs through
            let product_id = Uuid::parse_str(&item.product_id).map_err(|e| Fault::Internal(format!("an unchecked id came in: {e}")))?;
            Ok(Wanted { product_id, quantity: item.quantity, shown_price: item.price })
        })
        .collect()
}

async fn offers(app: &App, wanted: &[Wanted]) -> Result<Vec<Offer>, Error> {
    let request = BatchGetProductsRequest { product_ids: wanted.iter().map(|w| w.product_id.to_string()).collect() };
    let found = ProductLookupServiceClient::new(app.catalog.clone())
        .batch_get_products(request)
        .await
        .map_err(|status| neighbour(status, "catalog"))?
        .into_inner();
    if let Some(missing) = found.missing.into_iter().next() {
        return Err(Placement::ProductNotFound(missing).into());
    }
    let mut by_id: HashMap<String, Product> = found.products.into_iter().map(|p| (p.id.clone(), p)).collect();
    wanted
        .iter()
        .map(|w| {
            let id = w.product_id.to_string();
            let product = by_id.remove(&id).filter(|p| p.sellable).ok_or(Placement::ProductNotFound(id))?;
            Ok(Offer { price: money_from_proto(product.price.as_ref())?, name: product.name })
        })
        .collect()
}

async fn reserve(app: &App, id: Uuid, wanted: &[Wanted]) -> Result<(), Error> {
    let items = wanted.iter().map(|w| ReservationItem { product_id: w.product_id.to_string(), quantity: w.quantity }).collect();
    let held = ReservationServiceClient::new(app.inventory.clone()).reserve(ReserveRequest { order_id: id.to_string(), items }).await;
    let Err(status) = held else { return Ok(()) };
    let mut refusal = Refusal::of(&status);
    let mut told = |name: &str| refusal.metadata.remove(name).unwrap_or_default();
    match refusal.reason.as_str() {
        "INSUFFICIENT_STOCK" => {
            Err(Placement::InsufficientStock { product_id: told("product_id"), requested: told("requested"), available: told("available") }
                .into())
        }
        "RESERVATION_ENDED" => Err(Placement::Expired(id).into()),
        // the hold of this key is for other items: the key was used with another request
        "RESERVATION_CONFLICT" => Err(Fault::IdempotencyKeyReused.into()),
        _ => Err(neighbour(status, "inventory")),
    }
}

/// What a neighbour that did not answer means to the customer; its definite refusals of our own making are our fault.
fn neighbour(status: tonic::Status, name: &'static str) -> Error {
    match peer_fault(status, name) {
        Fault::Unavailable { detail, .. } => {
            tracing::warn!(neighbour = name, detail, "a neighbour did not answer");
            Error::Neighbour { neighbour: name }
        }
        Fault::Remote(status) => Fault::Internal(format!("`{name}` refused our call: {}", status.message())).into(),
        other => other.into(),
    }
}
