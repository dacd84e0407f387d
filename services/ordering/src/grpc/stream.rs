//! The stream behind `WatchOrder`.

use super::Orders;
use mercato_contracts::mercato::ordering::v1::{self as proto, stream_end::Reason, watch_order_response::Event};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

/// The answer's type.
pub type Watch = Pin<Box<dyn Stream<Item = Result<proto::WatchOrderResponse, Status>> + Send>>;

/// A sign of life at least this often: proxies and browsers drop silent connections.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The end message goes out this long before the deadline would cut the stream.
const MARGIN: Duration = Duration::from_secs(1);

/// Streams the order as it is, unless the caller has that version, and every change until it is settled, the time is up, or we stop.
pub fn watch(orders: &Orders, id: Uuid, current: proto::Order, after_version: i32, deadline: Instant) -> Watch {
    let updates = orders.app.hub.subscribe(id, current);
    let (sender, receiver) = mpsc::channel(4);
    let stream = Streamer { updates, sender, sent: after_version, stop: orders.stop.clone(), until: deadline - MARGIN };
    tokio::spawn(stream.run());
    Box::pin(ReceiverStream::new(receiver))
}

struct Streamer {
    updates: watch::Receiver<Arc<proto::Order>>,
    sender: mpsc::Sender<Result<proto::WatchOrderResponse, Status>>,
    sent: i32,
    stop: CancellationToken,
    until: Instant,
}

impl Streamer {
    async fn run(mut self) {
        let reason = self.follow().await;
        if let Some(reason) = reason {
            let end = proto::StreamEnd { reason: reason.into(), version: self.sent };
            // a client that left needs no end
            let _ = self.send(Event::End(end)).await;
        }
    }

    /// Sends changes until there is a reason to end; `None` when the client left.
    async fn follow(&mut self) -> Option<Reason> {
        loop {
            let order = self.updates.borrow_and_update().clone();
            if order.version > self.sent {
                self.sent = order.version;
                self.send(Event::Order(order.as_ref().clone())).await?;
            }
            if settled(&order) {
                return Some(Reason::Settled);
            }
            tokio::select! {
                changed = self.updates.changed() => if changed.is_err() { return Some(Reason::ServerError) },
                () = self.stop.cancelled() => return Some(Reason::ServerStopping),
                () = tokio::time::sleep_until(self.until) => return Some(Reason::TimeLimit),
                () = self.sender.closed() => return None,
                () = tokio::time::sleep(HEARTBEAT) => {
                    let at = Some(crate::convert::timestamp(OffsetDateTime::now_utc()));
                    self.send(Event::Heartbeat(proto::Heartbeat { at })).await?;
                }
            }
        }
    }

    async fn send(&self, event: Event) -> Option<()> {
        self.sender.send(Ok(proto::WatchOrderResponse { event: Some(event) })).await.ok()
    }
}

/// Whether nothing more happens to the order by itself. A cancelled order is settled once its payment is; its stock follows within moments
/// and is in the timeline.
fn settled(order: &proto::Order) -> bool {
    use proto::order::{PaymentStatus, Status};
    match order.status() {
        Status::Paid | Status::Completed | Status::NeedsOperator => true,
        Status::Cancelled => {
            matches!(order.payment_status(), PaymentStatus::PaymentFailed | PaymentStatus::PaymentVoided | PaymentStatus::PaymentRefunded)
        }
        _ => false,
    }
}
