//! When orders are paid, as the shop itself announces it on the topic `orders`. One reader for all orders costs the shop next to nothing,
//! where a stream or a poll for each order would be a good part of what is measured.

use crate::topic;
use anyhow::Context;
use rdkafka::Message;
use rdkafka::consumer::StreamConsumer;
use rdkafka::message::{BorrowedMessage, Headers};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

const TOPIC: &str = "orders";

/// How an order ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// Its money is captured: order.payment_processed.
    Paid,
    /// The event that ended it otherwise.
    Otherwise(String),
}

/// Hears of every order's end from the moment it was made.
pub struct Paid {
    known: Arc<Mutex<Known>>,
    reader: JoinHandle<()>,
}

#[derive(Default)]
struct Known {
    ended: HashMap<Uuid, (End, Instant)>,
    waiting: HashMap<Uuid, oneshot::Sender<(End, Instant)>>,
    broken: Option<String>,
}

impl Paid {
    /// Begins to listen at the end of the log.
    pub async fn listen(brokers: &str) -> anyhow::Result<Self> {
        let consumer = topic::at_end(brokers, TOPIC).await?;
        let known = Arc::new(Mutex::new(Known::default()));
        let reader = tokio::spawn(read(consumer, Arc::clone(&known)));
        Ok(Self { known, reader })
    }

    /// How and when this order ended; waits for it.
    pub async fn end(&self, order: Uuid, patience: Duration) -> anyhow::Result<(End, Instant)> {
        let (tell, told) = oneshot::channel();
        {
            let mut known = lock(&self.known);
            if let Some(error) = &known.broken {
                anyhow::bail!("the topic cannot be read: {error}");
            }
            if let Some(end) = known.ended.remove(&order) {
                return Ok(end);
            }
            known.waiting.insert(order, tell);
        }
        let heard = tokio::time::timeout(patience, told).await;
        lock(&self.known).waiting.remove(&order);
        heard.context("not paid in time")?.context("the topic cannot be read")
    }
}

impl Drop for Paid {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(consumer: StreamConsumer, known: Arc<Mutex<Known>>) {
    loop {
        match consumer.recv().await {
            Ok(message) => {
                if let Some((order, end)) = end_of(&message) {
                    let ended = (end, Instant::now());
                    let mut known = lock(&known);
                    match known.waiting.remove(&order) {
                        // nobody waits any longer when the receiver is gone
                        Some(waiter) => drop(waiter.send(ended)),
                        None => drop(known.ended.insert(order, ended)),
                    }
                }
            }
            Err(error) => {
                let mut known = lock(&known);
                known.broken = Some(error.to_string());
                known.waiting.clear();
                return;
            }
        }
    }
}

fn end_of(message: &BorrowedMessage<'_>) -> Option<(Uuid, End)> {
    let header = |name: &str| message.headers()?.iter().find(|h| h.key == name).and_then(|h| std::str::from_utf8(h.value?).ok());
    let end = match header("ce_type")? {
        "order.payment_processed" => End::Paid,
        other @ ("order.cancelled" | "order.needs_operator" | "order.failed") => End::Otherwise(other.to_owned()),
        _ => return None,
    };
    Some((header("ce_subject")?.parse().ok()?, end))
}
