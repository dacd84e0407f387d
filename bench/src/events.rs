//! Scenario `events`: how long an event takes from the database to a reader in Kafka, at a steady rate, beside messages that are sent
//! straight to Kafka and read there. The events are real: reservations straight at inventory's port, each an `inventory.reserved` and,
//! spread over many products, an `inventory.updated`.

use crate::Settings;
use crate::database::drained;
use crate::hot::{release, reserve};
use crate::load::{Caller, Latencies, Outcome, open};
use crate::measured::{Measured, costs};
use crate::peer::Peer;
use crate::pipe;
use crate::processes::Processes;
use crate::report::{Table, millis, number, rate};
use crate::shop;
use crate::topic;
use anyhow::Context;
use mercato_contracts::mercato::inventory::v1::reservation_service_client::ReservationServiceClient;
use rdkafka::Message;
use rdkafka::consumer::StreamConsumer;
use rdkafka::message::{BorrowedMessage, Headers};
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonic::transport::Channel;
use uuid::Uuid;

const TOPIC: &str = "inventory";
/// Products the reservations are spread over, so many that two of one batch seldom meet.
const PRODUCTS: usize = 1000;
/// Events of one reservation.
const EVENTS: u32 = 2;
const CALLERS: usize = 256;
const CONNECTIONS: usize = 4;
const WARM_UP: Duration = Duration::from_secs(2);
const SENDING: Duration = Duration::from_secs(30);
/// From the last event's acknowledgement to its arrival.
const ARRIVING: Duration = Duration::from_secs(1);
/// What 99 of 100 events shall not exceed.
const GOAL: Duration = Duration::from_millis(50);

/// Runs it.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    let products = shop::products(&settings.url, PRODUCTS).await?;
    let ids: Vec<String> = products.into_iter().map(|p| p.id).collect();
    let processes = Processes::find(&settings.run_dir)?;
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        peers.push(Peer::connect(&settings.inventory, &settings.peer_secret).await?);
    }
    let bench = Bench { settings, processes: &processes, peers: &peers, ids: &ids, acknowledged: RefCell::default() };
    let shop = bench.load().await?;
    let orders = bench.acknowledged.take().into_iter().map(|(order, _)| order).collect();
    release(&peers, orders).await?;
    drained(&settings.database, "inventory", SENDING).await?;
    eprintln!("straight through kafka");
    let bytes = shop.heard.bytes / shop.heard.since_row.count().max(1);
    let raw = pipe::measure(settings, &processes, usize::try_from(bytes)?, settings.events, settings.share(1, 2)).await?;
    report(settings, &processes, &shop, &raw, bytes);
    Ok(())
}

fn report(settings: &Settings, processes: &Processes, shop: &Shop, raw: &Measured, bytes: u64) {
    println!("## events: from commit to a reader in Kafka\n");
    println!(
        "{} events a second asked for, {:.1} s: {} reservations a second, open loop, over {} products straight at inventory's port; each is \
         an `inventory.reserved` and nearly always an `inventory.updated`, {bytes} bytes on average. `row to reader`: from the time in the \
         event, which is when its outbox row was written just before the commit, to the arrival at a reader of the topic on the same clock. \
         `answer to reader`: from the moment the \
         caller was answered; an event that came first counts as 0. `reservation`: the call itself. `straight`: messages of that size and rate \
         with the relay's producer settings, from the call of the producer to the same kind of reader.\n",
        settings.events,
        settings.share(1, 2).as_secs_f64(),
        settings.events / EVENTS,
        PRODUCTS,
    );
    let heard = &shop.heard;
    let mut table = Table::new(["from, to", "a second", "p50 ms", "p99 ms", "p99.9 ms", "count", "failed", "others"]);
    let mut row = |name: &str, latencies: &Latencies, time: Duration, failed: u64, others: String| {
        let mut row = vec![name.to_owned(), format!("{:.0}", rate(latencies.count(), time))];
        row.extend(latencies.percentiles([500, 990, 999]).map(millis));
        row.extend([latencies.count().to_string(), failed.to_string(), others]);
        table.row(row);
    };
    let (time, others) = (shop.load.outcome.time, shop.load.cost.others());
    row("row to reader", &heard.since_row, time, 0, others.clone());
    row("answer to reader", &shop.since_answer, time, 0, others.clone());
    row("reservation", &shop.answers, time, shop.load.outcome.failed, others);
    row("straight", &raw.outcome.latencies, raw.outcome.time, raw.outcome.failed, raw.cost.others());
    table.print();
    costs("event", processes, &[&shop.load, raw]).print();
    let [p99] = heard.since_row.percentiles([990]);
    let [floor] = raw.outcome.latencies.percentiles([990]);
    let met = if p99 <= GOAL { "met" } else { "missed" };
    let ratio = p99.as_secs_f64() / floor.as_secs_f64().max(1e-6);
    let (whole, goal) = (millis(p99), GOAL.as_millis());
    println!("Goal: p99 of `row to reader` at most {goal} ms: {whole} ms, {met}; {ratio:.1} x that of `straight`.");
    println!("Events for a reservation: {:.2}.\n", number(heard.since_row.count()) / number(shop.answers.count().max(1)));
}

/// What came of the load on the shop. The operations of `load` are events.
struct Shop {
    load: Measured,
    answers: Latencies,
    heard: Heard,
    since_answer: Latencies,
}

struct Bench<'a> {
    settings: &'a Settings,
    processes: &'a Processes,
    peers: &'a [Peer],
    ids: &'a [String],
    acknowledged: RefCell<Vec<(Uuid, Instant)>>,
}

impl Bench<'_> {
    async fn load(&self) -> anyhow::Result<Shop> {
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let reader = tokio::spawn(listen(topic::at_end(&self.settings.brokers, TOPIC).await?, Arc::clone(&heard)));
        let mut callers: Vec<Reserve<'_>> = self
            .peers
            .iter()
            .cycle()
            .take(CALLERS)
            .map(|peer| Reserve { client: ReservationServiceClient::new(peer.channel.clone()), peer, bench: self })
            .collect();
        let rate = (self.settings.events / EVENTS).max(1);
        open(&mut callers, rate, WARM_UP).await;
        let warm = self.acknowledged.borrow().len();
        self.arrived().await?;
        take(&heard);
        let meter = self.processes.start()?;
        let outcome = open(&mut callers, rate, self.settings.share(1, 2)).await;
        self.arrived().await?;
        let cost = meter.stop()?;
        reader.abort();
        let heard = take(&heard);
        if let Some(error) = &heard.broken {
            anyhow::bail!("the topic cannot be read: {error}");
        }
        let mut since_answer = Latencies::default();
        for (order, answered) in self.acknowledged.borrow().iter().skip(warm) {
            let at = heard.orders.get(order).with_context(|| format!("no event came of {order}"))?;
            since_answer.add(at.saturating_duration_since(*answered));
        }
        let answers = outcome.latencies.clone();
        let outcome = Outcome { latencies: heard.since_row.clone(), ..outcome };
        Ok(Shop { load: Measured { name: "shop".into(), outcome, cost }, answers, heard, since_answer })
    }

    async fn arrived(&self) -> anyhow::Result<()> {
        anyhow::ensure!(drained(&self.settings.database, "inventory", SENDING).await?, "the events are not sent within {SENDING:?}");
        tokio::time::sleep(ARRIVING).await;
        Ok(())
    }
}

struct Reserve<'a> {
    client: ReservationServiceClient<Channel>,
    peer: &'a Peer,
    bench: &'a Bench<'a>,
}

impl Caller for Reserve<'_> {
    async fn call(&mut self, n: u64) -> anyhow::Result<()> {
        let order = Uuid::now_v7();
        let index = usize::try_from(n)?.checked_rem(self.bench.ids.len()).unwrap_or_default();
        let product = self.bench.ids.get(index).context("no products")?;
        self.client.reserve(self.peer.request(reserve(order, product))?).await?;
        self.bench.acknowledged.borrow_mut().push((order, Instant::now()));
        Ok(())
    }
}

/// What the reader took down.
#[derive(Default)]
struct Heard {
    since_row: Latencies,
    bytes: u64,
    /// When the event of each order came.
    orders: HashMap<Uuid, Instant>,
    broken: Option<String>,
}

fn take(heard: &Mutex<Heard>) -> Heard {
    std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn listen(consumer: StreamConsumer, heard: Arc<Mutex<Heard>>) {
    loop {
        let result = consumer.recv().await;
        let (now, at) = (OffsetDateTime::now_utc(), Instant::now());
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = result.map_err(anyhow::Error::from).and_then(|message| note(&message, &mut heard, now, at));
        if let Err(error) = noted {
            heard.broken = Some(format!("{error:#}"));
            return;
        }
    }
}

fn note(message: &BorrowedMessage<'_>, heard: &mut Heard, now: OffsetDateTime, at: Instant) -> anyhow::Result<()> {
    let header = |name: &str| message.headers()?.iter().find(|h| h.key == name).and_then(|h| std::str::from_utf8(h.value?).ok());
    let written = OffsetDateTime::parse(header("ce_time").context("an event without a time")?, &Rfc3339)?;
    heard.since_row.add(between(written, now));
    heard.bytes += u64::try_from(message.payload_len())?;
    if header("ce_type") == Some("inventory.reserved") {
        heard.orders.insert(header("ce_subject").context("an event without a subject")?.parse()?, at);
    }
    Ok(())
}

/// From one time to a later one; a clock that was set back meanwhile makes it nothing.
fn between(from: OffsetDateTime, to: OffsetDateTime) -> Duration {
    Duration::try_from(to - from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_makes_no_negative_time() {
        let written = OffsetDateTime::parse("2026-01-02T03:04:05.678901Z", &Rfc3339).expect("a time");
        let earlier = OffsetDateTime::parse("2026-01-02T03:04:05.678Z", &Rfc3339).expect("a time");
        assert_eq!(between(written, earlier), Duration::ZERO);
        assert_eq!(between(earlier, written), Duration::from_micros(901));
    }
}
