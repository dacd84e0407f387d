//! Scenario `read`: GET of a product by its id, as REST and as gRPC, beside the echo.

use crate::Settings;
use crate::echo::Echo;
use crate::load::{Caller, closed, open};
use crate::measured::Measured;
use crate::processes::{GENERATOR, Processes};
use crate::report::{Table, micros_each, millis};
use crate::rest::{Ask, Connection};
use crate::shop;
use anyhow::Context;
use mercato_contracts::mercato::catalog::v1::GetProductRequest;
use mercato_contracts::mercato::catalog::v1::product_service_client::ProductServiceClient;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// Products that are asked for in turn.
const PRODUCTS: usize = 1000;
/// Calls under way on one gRPC connection.
pub const STREAMS: u32 = 8;
/// Callers of an open loop, so many that a slow answer does not hold up the next request.
const OPEN_CALLERS: u32 = 256;
/// Loads that share the scenario's time: shop and echo, REST and gRPC, closed and open.
const LOADS: u32 = 8;
/// Before a load is measured.
pub const WARM_UP: Duration = Duration::from_millis(1500);

/// Runs it.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    let mut products = shop::products(&settings.url, PRODUCTS).await?;
    products.sort_by_key(Message::encoded_len);
    let typical = products.get(products.len() / 2).context("the shop has no products")?;
    let echo = Echo::start(settings, std::slice::from_ref(typical)).await?;
    let mut processes = Processes::find(&settings.run_dir)?;
    for process in echo.processes()? {
        processes.push(process);
    }
    let ids: Arc<[String]> = products.iter().map(|p| p.id.clone()).collect();
    let bench = Bench { settings, processes: &processes, ids, names: shop_names(&processes) };
    println!("## read: a product by id through Envoy\n");
    println!(
        "{} products in turn; the echo answers with one of the middle size, {} bytes as protobuf. REST: {} connections; gRPC: {} calls \
         under way on {} connections. The open loop sends half of what the shop's closed loop reached, to both; its latencies count from \
         when a request was due. {:.1} s each. CPU in microseconds a request, idle use included; `service` is the shop's own processes, or \
         the echo. `others`: cores kept busy by processes that are not part of this.\n",
        products.len(),
        typical.encoded_len(),
        settings.connections,
        settings.connections,
        settings.connections.div_ceil(STREAMS),
        settings.share(1, LOADS).as_secs_f64(),
    );
    let table = bench.all(&settings.url, &echo.url).await?;
    table.print();
    Ok(())
}

/// The shop's own processes, whichever form it runs in.
pub fn shop_names(processes: &Processes) -> Vec<String> {
    let parts = ["envoy", "postgres", "kafka", "redis", "provider", "echo envoy", "echo", GENERATOR];
    processes.list().iter().map(|p| p.name.clone()).filter(|n| !parts.contains(&n.as_str())).collect()
}

struct Bench<'a> {
    settings: &'a Settings,
    processes: &'a Processes,
    ids: Arc<[String]>,
    /// The shop's own processes.
    names: Vec<String>,
}

impl Bench<'_> {
    async fn all(&self, shop: &str, echo: &str) -> anyhow::Result<Table> {
        let mut table = table();
        for protocol in [Protocol::Rest, Protocol::Grpc] {
            let name = protocol.name();
            let floor = self.load(protocol, echo, None, format!("{name} closed, echo")).await?;
            let whole = self.load(protocol, shop, None, format!("{name} closed, shop")).await?;
            let half = (whole.rate() / 2.0).max(1.0) as u32;
            let open_floor = self.load(protocol, echo, Some(half), format!("{name} open, echo")).await?;
            let open_whole = self.load(protocol, shop, Some(half), format!("{name} open, shop")).await?;
            for (load, beside) in [(&floor, None), (&whole, Some(&floor)), (&open_floor, None), (&open_whole, None)] {
                table.row(row(load, beside, &self.names));
            }
        }
        Ok(table)
    }

    /// One load, closed or at a rate.
    async fn load(&self, protocol: Protocol, url: &str, rate: Option<u32>, name: String) -> anyhow::Result<Measured> {
        let callers = if rate.is_some() { OPEN_CALLERS } else { self.settings.connections };
        match protocol {
            Protocol::Rest => {
                let paths: Arc<[String]> = self.ids.iter().map(|id| format!("/api/products/{id}")).collect();
                let mut callers: Vec<Rest> =
                    (0..callers).map(|_| Rest { connection: Connection::to(url), paths: Arc::clone(&paths) }).collect();
                self.press(&mut callers, rate, name).await
            }
            Protocol::Grpc => {
                let mut channels = Vec::new();
                for _ in 0..self.settings.connections.div_ceil(STREAMS) {
                    channels.push(Endpoint::from_shared(url.to_owned())?.connect().await.context("grpc")?);
                }
                let mut callers: Vec<Grpc> = channels
                    .iter()
                    .cycle()
                    .take(callers.try_into()?)
                    .map(|c| Grpc { client: ProductServiceClient::new(c.clone()), ids: Arc::clone(&self.ids) })
                    .collect();
                self.press(&mut callers, rate, name).await
            }
        }
    }

    async fn press<C: Caller>(&self, callers: &mut [C], rate: Option<u32>, name: String) -> anyhow::Result<Measured> {
        closed(callers, WARM_UP).await;
        let meter = self.processes.start()?;
        let time = self.settings.share(1, LOADS);
        let outcome = match rate {
            None => closed(callers, time).await,
            Some(rate) => open(callers, rate, time).await,
        };
        let cost = meter.stop()?;
        if let Some(error) = &outcome.error {
            eprintln!("{} failed, the first: {error}", outcome.failed);
        }
        Ok(Measured { name, outcome, cost })
    }
}

/// The table of a load beside its echo, without rows.
pub fn table() -> Table {
    Table::new([
        "load",
        "req/s",
        "of echo",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "service",
        "envoy",
        "postgres",
        "kafka",
        "redis",
        "load gen.",
        "failed",
        "others",
    ])
}

/// A row of it. `service` names the shop's own processes; a load without a floor is the echo itself.
pub fn row(load: &Measured, floor: Option<&Measured>, service: &[String]) -> Vec<String> {
    let (count, cost) = (load.count(), &load.cost);
    let ratio = floor.map_or("-".into(), |f| format!("{:.0} %", 100.0 * load.rate() / f.rate()));
    let [p50, p99, p999] = load.outcome.latencies.percentiles([500, 990, 999]);
    let echo = load.name.ends_with("echo");
    let service = if echo { cost.of("echo") } else { service.iter().map(|n| cost.of(n)).sum() };
    let edge = cost.of(if echo { "echo envoy" } else { "envoy" });
    let mut row = vec![load.name.clone(), format!("{:.0}", load.rate()), ratio, millis(p50), millis(p99), millis(p999)];
    let parts = [service, edge, cost.of("postgres"), cost.of("kafka"), cost.of("redis"), cost.of(GENERATOR)];
    row.extend(parts.map(|cpu| micros_each(cpu, count)));
    row.extend([load.outcome.failed.to_string(), cost.others()]);
    eprintln!("{}: {:.0} requests a second", load.name, load.rate());
    row
}

#[derive(Clone, Copy)]
enum Protocol {
    Rest,
    Grpc,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Rest => "REST",
            Self::Grpc => "gRPC",
        }
    }
}

fn turn(all: &[String], n: u64) -> &str {
    let index = usize::try_from(n).unwrap_or_default().checked_rem(all.len()).unwrap_or_default();
    all.get(index).map_or("", String::as_str)
}

struct Rest {
    connection: Connection,
    paths: Arc<[String]>,
}

impl Caller for Rest {
    async fn call(&mut self, n: u64) -> anyhow::Result<()> {
        let answer = self.connection.send(&Ask::get(turn(&self.paths, n))).await?;
        anyhow::ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text());
        Ok(())
    }
}

struct Grpc {
    client: ProductServiceClient<Channel>,
    ids: Arc<[String]>,
}

impl Caller for Grpc {
    async fn call(&mut self, n: u64) -> anyhow::Result<()> {
        self.client.get_product(GetProductRequest { product_id: turn(&self.ids, n).to_owned() }).await?;
        Ok(())
    }
}
