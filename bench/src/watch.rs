//! Scenario `watch`: thousands of open WatchOrder streams. What one costs each process in memory and CPU, and how soon a change is heard.
//!
//! The orders wait for a provider that is told to be away for them, so that nothing settles them meanwhile; they are cancelled at the end.

use crate::Settings;
use crate::limits;
use crate::load::Latencies;
use crate::metrics;
use crate::processes::{Cost, GENERATOR, Memory, Processes, idle, memory};
use crate::report::{Table, micros_each, millis, number, rate};
use crate::rest::{Ask, Connection};
use crate::shop;
use crate::streams::{Log, Streams, Watched, Way};
use anyhow::Context;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Streams on one order.
const EACH: u32 = 10;
/// Orders that are cancelled to see who hears of it.
const SAMPLE: usize = 50;
/// Changes at once while orders are made and cancelled.
const AT_ONCE: usize = 8;
/// Streams opened a second.
const RATE: u32 = 1000;
/// How often a cancellation is tried that is refused for the load.
const TRIES: u32 = 20;
const REST: Duration = Duration::from_secs(3);
/// How long the news of a cancelled order, and the end of closed streams, may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs it.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    let processes = Processes::find(&settings.run_dir)?;
    let (count, reason) = scaled(settings, &processes)?;
    eprintln!("placing orders that nothing settles");
    let mut orders = place(settings, count.div_ceil(EACH)).await?;
    println!("## watch: {count} open streams\n");
    if let Some(reason) = reason {
        println!("{} were asked for; fewer are opened because {reason}.\n", settings.streams);
    }
    println!(
        "WatchOrder over {} orders, about {EACH} streams on each, opened at {RATE} a second at most. `SSE`: through Envoy, a connection \
         each; `gRPC`: through Envoy, 100 on a connection; `straight`: at ordering's own port. Memory is the proportional share with all \
         open, less that before if it grew, and what remained of it after all were closed; it is held by allocators as much as by streams, so that a \
         later row can find it there already. CPU at rest over {:.1} s, less what was used before. `heard`: from sending the cancellation \
         of {SAMPLE} orders to each stream's event; `cancel`: the call itself.\n",
        orders.len(),
        settings.share(1, 3).as_secs_f64(),
    );
    let (mut rates, mut costs) = (rates(), costs());
    for (name, way) in [("straight", Way::Straight), ("gRPC", Way::Edge), ("SSE", Way::Sse)] {
        eprintln!("opening {count} streams, {name}");
        let load = load(settings, &processes, way, &orders, count).await?;
        rates.row(load.row(name));
        load.costs(name, &processes, &mut costs);
        orders.drain(..SAMPLE.min(orders.len()));
    }
    rates.print();
    costs.print();
    eprintln!("cancelling what is left");
    stream::iter(orders).map(|w| cancel(settings, w)).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
    Ok(())
}

/// How many streams can be opened, and why not all that were asked for.
fn scaled(settings: &Settings, processes: &Processes) -> anyhow::Result<(u32, Option<String>)> {
    // a server-sent stream is a file of ours and one of the edge; behind it many share a connection
    let of = |name: &str| processes.list().iter().find(|p| p.name == name).map(|p| (name.to_owned(), p.pid, 1));
    Ok(limits::scaled(settings.streams, limits::bounds(&[of(GENERATOR), of("envoy")].into_iter().flatten().collect::<Vec<_>>())?))
}

#[derive(Deserialize)]
struct Placed {
    id: Uuid,
}

/// Places orders whose payment waits for a provider that is never there.
async fn place(settings: &Settings, count: u32) -> anyhow::Result<Vec<Watched>> {
    let tokens: Vec<Arc<str>> = shop::customers(&settings.url, settings.customers).await?.into_iter().map(Into::into).collect();
    let products = shop::products(&settings.url, 1000).await?;
    let bodies: Vec<String> = products.iter().map(|p| body(&p.id)).collect();
    let turns = tokens.iter().cycle().zip(bodies.iter().cycle()).take(count.try_into()?);
    let placed = stream::iter(turns).map(|(token, body)| async move {
        let ask = Ask::change(Method::POST, "/api/orders", body.clone()).by(token);
        let answer = Connection::to(&settings.url).send_patiently(&ask).await?;
        anyhow::Ok(Watched { order: answer.json::<Placed>().context("placing an order")?.id, token: Arc::clone(token) })
    });
    placed.buffer_unordered(AT_ONCE).try_collect().await
}

fn body(product: &str) -> String {
    json!({
        "items": [ { "productId": product, "quantity": 1 } ],
        "shippingAddress": { "street": "1 Market Street", "city": "Springfield", "state": "IL", "zipCode": "62701" },
        "paymentMethod": "credit_card",
        "paymentToken": "tok_unavailable"
    })
    .to_string()
}

/// When the cancellation was sent, and how long it took.
async fn cancel(settings: &Settings, watched: Watched) -> anyhow::Result<(Uuid, Instant, Duration)> {
    let path = format!("/api/orders/{}:cancel", watched.order);
    let ask = Ask::change(Method::POST, &path, "{}").by(&watched.token);
    let mut connection = Connection::to(&settings.url);
    for _ in 0..TRIES {
        let sent = Instant::now();
        let answer = connection.send(&ask).await?;
        if matches!(answer.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            tokio::time::sleep(answer.retry_after.unwrap_or(Duration::from_secs(1))).await;
            continue;
        }
        anyhow::ensure!(answer.status.is_success(), "cancelling: {} {}", answer.status, answer.text());
        return Ok((watched.order, sent, sent.elapsed()));
    }
    anyhow::bail!("cancelling is refused for the load, {TRIES} times")
}

/// What came of so many streams.
struct Load {
    log: Log,
    opening: Cost,
    before: Cost,
    resting: Cost,
    memory: BTreeMap<String, [Memory; 3]>,
    heard: Latencies,
    cancels: Latencies,
    /// Streams that should have heard and did not.
    deaf: u64,
    /// Orders the shop still thinks watched after all were closed.
    left: f64,
}

async fn load(settings: &Settings, processes: &Processes, way: Way, orders: &[Watched], count: u32) -> anyhow::Result<Load> {
    let before = idle(processes, REST).await?;
    let empty = memories(processes)?;
    let address = if way == Way::Straight { &settings.ordering } else { &settings.url };
    let meter = processes.start()?;
    let streams = Streams::open(way, address, orders, count, RATE).await?;
    let opening = meter.stop()?;
    tokio::time::sleep(REST).await;
    let resting = idle(processes, settings.share(1, 3)).await?;
    let full = memories(processes)?;
    let sample: BTreeSet<Uuid> = orders.iter().take(SAMPLE).map(|w| w.order).collect();
    let listeners = streams.log().opened.iter().filter(|(order, _)| sample.contains(order)).count();
    let cancelled: Vec<(Uuid, Instant, Duration)> =
        stream::iter(orders.iter().take(SAMPLE).cloned()).then(|w| cancel(settings, w)).try_collect().await?;
    let began = Instant::now();
    while streams.log().cancelled.len() < listeners && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = streams.close().await;
    let left = forgotten(processes).await?;
    let after = memories(processes)?;
    let memory = empty.into_iter().zip(full.into_values()).zip(after.into_values()).map(|(((n, a), b), c)| (n, [a, b, c])).collect();
    let (heard, cancels) = heard(&log, &cancelled);
    anyhow::ensure!(log.cancelled.iter().all(|(order, _)| sample.contains(order)), "an order was cancelled that nobody cancelled");
    let deaf = u64::try_from(listeners)?.saturating_sub(heard.count());
    Ok(Load { log, opening, before, resting, memory, heard, cancels, deaf, left })
}

/// How long each stream waited for its news, and each caller for its answer.
fn heard(log: &Log, cancelled: &[(Uuid, Instant, Duration)]) -> (Latencies, Latencies) {
    let sent: HashMap<Uuid, Instant> = cancelled.iter().map(|(order, sent, _)| (*order, *sent)).collect();
    let (mut heard, mut calls) = (Latencies::default(), Latencies::default());
    for (order, at) in &log.cancelled {
        if let Some(sent) = sent.get(order) {
            heard.add(at.saturating_duration_since(*sent));
        }
    }
    cancelled.iter().for_each(|(_, _, took)| calls.add(*took));
    (heard, calls)
}

/// Waits until the shop knows that nobody watches any more; how many it still believes to.
async fn forgotten(processes: &Processes) -> anyhow::Result<f64> {
    let began = Instant::now();
    loop {
        let left = metrics::figures(processes).await?.sum("mercato_ordering_watched_orders");
        if left <= 0.0 || began.elapsed() > PATIENCE {
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn memories(processes: &Processes) -> anyhow::Result<BTreeMap<String, Memory>> {
    processes.list().iter().map(|p| Ok((p.name.clone(), memory(p.pid)?))).collect()
}

fn rates() -> Table {
    Table::new([
        "streams",
        "open",
        "opened/s",
        "open p50 ms",
        "p99",
        "p99.9",
        "heard p50 ms",
        "p99",
        "p99.9",
        "cancel p50 ms",
        "news",
        "missed",
        "refused",
        "lost",
        "still watched",
    ])
}

fn costs() -> Table {
    Table::new(["streams, process", "KB a stream", "MB before", "open", "closed", "CPU us to open one", "CPU ms/s for 1000 at rest"])
}

impl Load {
    fn row(&self, name: &str) -> Vec<String> {
        for (what, reasons) in [("refused", &self.log.refused), ("lost", &self.log.lost)] {
            if let Some(first) = reasons.first() {
                println!("{name}: {} streams {what}, the first: {first}\n", reasons.len());
            }
        }
        let opened = u64::try_from(self.log.opened.len()).unwrap_or_default();
        let mut opening = Latencies::default();
        self.log.opened.iter().for_each(|(_, took)| opening.add(*took));
        let mut row = vec![name.to_owned(), opened.to_string(), format!("{:.0}", rate(opened, self.opening.time))];
        row.extend(opening.percentiles([500, 990, 999]).map(millis));
        row.extend(self.heard.percentiles([500, 990, 999]).map(millis));
        row.extend(self.cancels.percentiles([500]).map(millis));
        row.extend([self.heard.count().to_string(), self.deaf.to_string(), self.log.refused.len().to_string()]);
        row.extend([self.log.lost.len().to_string(), format!("{:.0}", self.left)]);
        row
    }

    fn costs(&self, name: &str, processes: &Processes, table: &mut Table) {
        let opened = u64::try_from(self.log.opened.len()).unwrap_or_default();
        for process in processes.list().iter().map(|p| &p.name) {
            let Some([before, open, closed]) = self.memory.get(process).map(|m| m.map(|m| number(m.proportional / 1024))) else { continue };
            let rest = self.resting.less(&self.before, process).as_secs_f64() * 1e3 / self.resting.time.as_secs_f64();
            table.row(vec![
                format!("{name}, {process}"),
                format!("{:.1}", ((open - before) / number(opened.max(1))).max(0.0)),
                format!("{:.1}", before / 1024.0),
                format!("{:.1}", open / 1024.0),
                format!("{:.1}", closed / 1024.0),
                micros_each(self.opening.less(&self.before, process), opened),
                format!("{:.2}", rest * 1e3 / number(opened.max(1))),
            ]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_count_from_their_own_cancellation() {
        let (first, second, start) = (Uuid::now_v7(), Uuid::now_v7(), Instant::now());
        let ms = Duration::from_millis;
        let log = Log { cancelled: vec![(first, start + ms(30)), (second, start + ms(130))], ..Log::default() };
        let (heard, calls) = heard(&log, &[(first, start, ms(5)), (second, start + ms(100), ms(5))]);
        assert_eq!((heard.percentiles([1000]), calls.count()), ([ms(30)], 2));
    }
}
