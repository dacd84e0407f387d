//! Tells open streams about changes. A change made by this process is told at once; one made by another is found within two seconds by
//! one query over all watched orders. The database is the truth; losing a hint costs two seconds, never an update.

use crate::convert::order_to_proto;
use crate::domain::Order;
use crate::store;
use mercato_chassis::{error::Fault, pg::Db, tasks::Tasks};
use mercato_contracts::mercato::ordering::v1 as proto;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

/// How often watched orders are compared with the database.
pub const SWEEP: Duration = Duration::from_secs(2);

/// Everything watched by this process.
#[derive(Default)]
pub struct Hub {
    watched: Mutex<HashMap<Uuid, watch::Sender<Arc<proto::Order>>>>,
    hint: Notify,
}

impl Hub {
    /// The order from now on; the receiver's first value is `current` or something newer.
    pub fn subscribe(&self, id: Uuid, current: proto::Order) -> watch::Receiver<Arc<proto::Order>> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = watched.entry(id).or_insert_with(|| watch::Sender::new(Arc::new(proto::Order::default())));
        let receiver = sender.subscribe();
        offer(sender, Arc::new(current));
        receiver
    }

    /// An order changed in this process.
    pub fn publish(&self, order: &Order) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = watched.get(&order.placed.id) {
            offer(sender, Arc::new(order_to_proto(order)));
        }
    }

    /// Some of these orders changed in this process; whoever is watched is read again at once.
    pub fn touched(&self, ids: &[Uuid]) {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.iter().any(|id| watched.contains_key(id)) {
            self.hint.notify_one();
        }
    }

    /// Compares with the database until the process stops.
    pub fn run(self: Arc<Self>, db: Db, tasks: &Tasks) {
        let stop = tasks.token();
        tasks.spawn("order watch", async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.hint.notified() => {}
                    () = tokio::time::sleep(SWEEP) => {}
                }
                if let Err(error) = self.sweep(&db).await {
                    tracing::warn!(%error, "watched orders could not be read, trying again");
                }
            }
        });
    }

    async fn sweep(&self, db: &Db) -> Result<(), Fault> {
        let (ids, versions): (Vec<Uuid>, Vec<i64>) = {
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.retain(|_, sender| sender.receiver_count() > 0);
            watched.iter().map(|(id, sender)| (*id, i64::from(sender.borrow().version))).unzip()
        };
        crate::metrics::WATCHED.set([], ids.len() as f64);
        if ids.is_empty() {
            return Ok(());
        }
        let newer = store::read_many(db.read(), &ids, &versions).await?;
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for order in newer {
            let Ok(id) = Uuid::parse_str(&order.id) else { continue };
            if let Some(sender) = watched.get(&id) {
                offer(sender, Arc::new(order));
            }
        }
        Ok(())
    }
}

fn offer(sender: &watch::Sender<Arc<proto::Order>>, order: Arc<proto::Order>) {
    sender.send_if_modified(|known| {
        let newer = order.version > known.version;
        if newer {
            *known = order;
        }
        newer
    });
}
