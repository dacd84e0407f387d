//! Many open WatchOrder streams, and when each of them heard what.

use crate::peer::connect;
use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use mercato_contracts::mercato::ordering::v1::order::Status;
use mercato_contracts::mercato::ordering::v1::order_service_client::OrderServiceClient;
use mercato_contracts::mercato::ordering::v1::{WatchOrderRequest, watch_order_response::Event};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use uuid::Uuid;

/// Streams on one gRPC connection: what the edge allows a client.
const ON_EDGE: usize = 100;
/// Streams on one gRPC connection straight to a role.
const ON_ROLE: usize = 500;
/// Streams that are opened at a time.
const OPENING: usize = 128;
/// How long one may take to say how the order is.
const PATIENCE: Duration = Duration::from_secs(20);
/// Refused streams after which no more are tried.
const REFUSALS: usize = 50;

/// How a stream is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    /// Server-sent events through the edge, a connection each.
    Sse,
    /// gRPC through the edge, many on a connection.
    Edge,
    /// gRPC straight at ordering's port.
    Straight,
}

/// An order to watch, and the token of whoever placed it.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The order.
    pub order: Uuid,
    /// The token.
    pub token: Arc<str>,
}

/// What the streams heard.
#[derive(Default)]
pub struct Log {
    /// How long each took until it said how its order is.
    pub opened: Vec<(Uuid, Duration)>,
    /// Streams that were refused or broke before they said so, the first reasons.
    pub refused: Vec<String>,
    /// When each stream first heard that its order is cancelled.
    pub cancelled: Vec<(Uuid, Instant)>,
    /// Streams that ended although nobody closed them and their order was not cancelled.
    pub lost: Vec<String>,
}

/// Open streams; dropping them closes all.
pub struct Streams {
    log: Arc<Mutex<Log>>,
    tasks: JoinSet<()>,
}

impl Streams {
    /// Opens `count` streams over these orders in turn, `rate` a second at most.
    pub async fn open(way: Way, address: &str, orders: &[Watched], count: u32, rate: u32) -> anyhow::Result<Self> {
        let log: Arc<Mutex<Log>> = Arc::default();
        let mut tasks = JoinSet::new();
        let count = usize::try_from(count)?;
        let each = if way == Way::Edge { ON_EDGE } else { ON_ROLE };
        let mut channels = Vec::new();
        for _ in 0..(if way == Way::Sse { 0 } else { count.div_ceil(each) }) {
            channels.push(connect(address).await?);
        }
        let opening = Arc::new(Semaphore::new(OPENING));
        let began = Instant::now();
        for (n, watched) in orders.iter().cycle().take(count).cloned().enumerate() {
            let due = began + (Duration::from_secs(1) / rate.max(1)).saturating_mul(n.try_into()?);
            tokio::time::sleep_until(due.into()).await;
            let place = Arc::clone(&opening).acquire_owned().await?;
            if lock(&log).refused.len() >= REFUSALS {
                break;
            }
            let stream = Stream { watched, log: Arc::clone(&log), asked: Instant::now(), place: Some(place), told: false };
            match channels.get(n / each) {
                Some(channel) => tasks.spawn(stream.grpc(channel.clone())),
                None => tasks.spawn(stream.sse(address.to_owned())),
            };
        }
        // all places are free again when each stream has opened or failed; one that does neither is missing from the log
        drop(tokio::time::timeout(PATIENCE, opening.acquire_many(OPENING.try_into()?)).await);
        Ok(Self { log, tasks })
    }

    /// What they heard up to now.
    pub fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        lock(&self.log)
    }

    /// Closes all; what they heard.
    pub async fn close(mut self) -> Log {
        self.tasks.shutdown().await;
        std::mem::take(&mut *lock(&self.log))
    }
}

fn lock(log: &Mutex<Log>) -> std::sync::MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Stream {
    watched: Watched,
    log: Arc<Mutex<Log>>,
    asked: Instant,
    /// Held until the stream is open.
    place: Option<tokio::sync::OwnedSemaphorePermit>,
    /// Whether it heard that its order is cancelled.
    told: bool,
}

impl Stream {
    async fn grpc(mut self, channel: Channel) {
        let result = self.follow_grpc(channel).await;
        self.ended(result);
    }

    async fn follow_grpc(&mut self, channel: Channel) -> anyhow::Result<()> {
        let mut request = tonic::Request::new(WatchOrderRequest { order_id: self.watched.order.to_string(), after_version: 0 });
        let bearer = AsciiMetadataValue::try_from(format!("Bearer {}", self.watched.token)).context("a token is ascii")?;
        request.metadata_mut().insert("authorization", bearer);
        let mut client = OrderServiceClient::new(channel);
        let mut stream = tokio::time::timeout(PATIENCE, client.watch_order(request)).await??.into_inner();
        while let Some(message) = stream.message().await? {
            if let Some(Event::Order(order)) = message.event {
                self.heard(order.status() == Status::Cancelled);
            }
        }
        Ok(())
    }

    async fn sse(mut self, address: String) {
        let result = self.follow_sse(address.trim_start_matches("http://").trim_end_matches('/')).await;
        self.ended(result);
    }

    async fn follow_sse(&mut self, address: &str) -> anyhow::Result<()> {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .uri(format!("/api/orders/{}:watch", self.watched.order))
            .header(HOST, address)
            .header(ACCEPT, "text/event-stream")
            .header(AUTHORIZATION, format!("Bearer {}", self.watched.token))
            .body(Empty::new())?;
        let follow = async {
            let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await??;
            let (status, mut body) = (answer.status(), answer.into_body());
            let mut text = Lines::default();
            while let Some(frame) = body.frame().await {
                for line in text.add(&frame?.into_data().unwrap_or_default()) {
                    anyhow::ensure!(status.is_success(), "{status} {line}");
                    if line.contains("\"order\"") {
                        self.heard(line.contains("\"status\":\"CANCELLED\""));
                    }
                }
            }
            anyhow::ensure!(status.is_success(), "{status} {}", text.rest());
            Ok(())
        };
        // both here, so that dropping the stream closes its connection
        let (result, _) = tokio::join!(follow, connection);
        result
    }

    fn heard(&mut self, cancelled: bool) {
        let mut log = lock(&self.log);
        if self.place.take().is_some() {
            log.opened.push((self.watched.order, self.asked.elapsed()));
        }
        // a cancelled order changes once more when its payment ends
        if cancelled && !std::mem::replace(&mut self.told, true) {
            log.cancelled.push((self.watched.order, Instant::now()));
        }
    }

    fn ended(self, result: anyhow::Result<()>) {
        let mut log = lock(&self.log);
        let error = result.err();
        if self.place.is_some() {
            log.refused.push(error.map_or_else(|| "ended without the order".to_owned(), |e| format!("{e:#}")));
        } else if !self.told {
            log.lost.push(error.map_or_else(|| "ended by the server".to_owned(), |e| format!("{e:#}")));
        }
    }
}

/// Whole lines out of pieces.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn add(&mut self, piece: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(piece);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        lines
    }

    fn rest(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_come_in_pieces() {
        let mut lines = Lines::default();
        assert!(lines.add(b"data: {\"or").is_empty());
        assert_eq!(lines.add(b"der\":1}\n\nda"), ["data: {\"order\":1}", ""]);
        assert_eq!(lines.rest(), "da");
    }
}
