//! Load on a running shop, on one machine, over loopback, beside the floor it is compared with. Every scenario is bounded in time, prints
//! Markdown on standard output and progress on standard error, and measures the CPU of every process from /proc.

#![forbid(unsafe_code)]

mod batch;
mod database;
mod echo;
mod events;
mod floor;
mod hot;
mod idle;
mod limits;
mod load;
mod measured;
mod metrics;
mod order;
mod paid;
mod peer;
mod pipe;
mod processes;
mod read;
mod report;
mod rest;
mod roles;
mod rowlock;
mod shop;
mod spans;
mod streams;
mod stub;
mod topic;
mod watch;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use processes::{Processes, quiet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Benchmarks of a running shop. `bench/run` starts the shop and sets everything this reads.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A product by id through the edge, REST and gRPC, beside an echo behind the same edge.
    Read(Settings),
    /// Complete orders, over many products and over one, beside a bare insert.
    Order(Settings),
    /// Twenty products at once: a page through the edge, a batch straight at the catalog, beside the echo.
    Batch(Settings),
    /// Reservations of one product by 64 clients, beside row locks.
    Hot(Settings),
    /// From commit to a reader in Kafka at a steady rate, beside Kafka alone.
    Events(Settings),
    /// Thousands of open WatchOrder streams.
    Watch(Settings),
    /// Memory and start of each role in a process of its own. Stops the shop for it.
    Roles(Settings),
    /// Memory, idle CPU, start time and sizes. Restarts the shop's own processes.
    Idle(Settings),
    /// All of them, but for `spans`.
    All(Settings),
    /// What a span costs: ours and the OpenTelemetry SDK beside plain `tracing`. Needs no shop.
    Spans(Spans),
    /// One way of `spans`, in this process.
    #[command(hide = true)]
    SpansOf {
        /// Which.
        way: spans::Way,
        /// The collector.
        #[arg(long)]
        endpoint: String,
        #[command(flatten)]
        time: Spans,
    },
    /// The echo: answers every question for products with one message until its standard input ends.
    Stub {
        /// Where it listens.
        #[arg(long)]
        addr: SocketAddr,
        /// A file with the encoded list of products it answers with.
        #[arg(long)]
        products: PathBuf,
    },
}

/// How long `spans` looks.
#[derive(Args, Clone)]
struct Spans {
    /// How long each way is pressed, in seconds.
    #[arg(long, env = "SECONDS_PER_WAY", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// Where the shop is and how hard it is pressed.
#[derive(Args, Clone)]
struct Settings {
    /// The edge.
    #[arg(long, env = "MERCATO_URL")]
    url: String,
    /// The shop's PostgreSQL; a database of our own is made there for the floor, and removed.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database: String,
    /// The shop's Kafka, where completed orders are seen.
    #[arg(long, env = "KAFKA_BROKERS")]
    brokers: String,
    /// Who may set stock.
    #[arg(long, env = "STAFF_EMAIL")]
    staff_email: String,
    /// The staff's password.
    #[arg(long, env = "STAFF_PASSWORD", hide_env_values = true)]
    staff_password: String,
    /// The catalog's own gRPC port, host:port.
    #[arg(long, env = "MERCATO_GRPC_CATALOG")]
    catalog: String,
    /// The inventory's.
    #[arg(long, env = "MERCATO_GRPC_INVENTORY")]
    inventory: String,
    /// Ordering's.
    #[arg(long, env = "MERCATO_GRPC_ORDERING")]
    ordering: String,
    /// The file with the secret the roles share, to call them as one of them.
    #[arg(long, env = "MERCATO_PEER_SECRET_FILE")]
    peer_secret: PathBuf,
    /// The folder of the process ids, NAME.pid.
    #[arg(long, env = "MERCATO_RUN_DIR")]
    run_dir: PathBuf,
    /// The executable that renders the edge's configuration.
    #[arg(long, env = "MERCATO_BIN")]
    mercato: PathBuf,
    /// The Envoy of the echo, the same as the shop's.
    #[arg(long, env = "ENVOY")]
    envoy: PathBuf,
    /// The script that stops and starts one process.
    #[arg(long, env = "MERCATO_PART")]
    part: PathBuf,
    /// How long a scenario presses, in seconds; its loads share them.
    #[arg(long, env = "SECONDS_PER_SCENARIO", default_value_t = 20, value_parser = clap::value_parser!(u32).range(4..=600))]
    seconds: u32,
    /// Connections of the closed loop in `read`.
    #[arg(long, env = "CONNECTIONS", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Customers who order. Each may change something 50 times a second.
    #[arg(long, env = "CUSTOMERS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    customers: u32,
    /// Orders under way at any time.
    #[arg(long, env = "ORDERS_IN_FLIGHT", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=5000))]
    in_flight: u32,
    /// Events a second in `events`.
    #[arg(long, env = "EVENTS_PER_SECOND", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(10..=20_000))]
    events: u32,
    /// Streams that `watch` opens.
    #[arg(long, env = "WATCH_STREAMS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1000..=20_000))]
    streams: u32,
}

impl Settings {
    /// The part of a scenario's time that one of its loads gets.
    fn share(&self, parts: u32, of: u32) -> Duration {
        Duration::from_secs(self.seconds.into()) * parts / of
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Stub { addr, products } => stub::main(addr, &products),
        Command::Spans(spans) => single(async move { spans::run(spans.seconds).await }),
        Command::SpansOf { way, endpoint, time } => spans::run_one(way, &endpoint, time.seconds),
        // One thread: the generator must not take more than one core from those it measures.
        Command::Read(settings) => single(scenarios(&settings, &[Scenario::Read])),
        Command::Batch(settings) => single(scenarios(&settings, &[Scenario::Batch])),
        Command::Order(settings) => single(scenarios(&settings, &[Scenario::Order])),
        Command::Hot(settings) => single(scenarios(&settings, &[Scenario::Hot])),
        Command::Events(settings) => single(scenarios(&settings, &[Scenario::Events])),
        Command::Watch(settings) => single(scenarios(&settings, &[Scenario::Watch])),
        Command::Idle(settings) => single(scenarios(&settings, &[Scenario::Idle])),
        Command::Roles(settings) => single(scenarios(&settings, &[Scenario::Roles])),
        Command::All(settings) => single(scenarios(&settings, ALL)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn single(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // returning drops the work, and with it the processes it started
        tokio::select! {
            result = work => result,
            _ = terminate.recv() => anyhow::bail!("ended by a signal"),
            _ = interrupt.recv() => anyhow::bail!("ended by a signal"),
        }
    })
}

#[derive(Clone, Copy)]
enum Scenario {
    Read,
    Batch,
    Order,
    Hot,
    Events,
    Watch,
    Idle,
    Roles,
}

/// The last two restart the shop.
const ALL: &[Scenario] =
    &[Scenario::Read, Scenario::Batch, Scenario::Order, Scenario::Hot, Scenario::Events, Scenario::Watch, Scenario::Idle, Scenario::Roles];

async fn scenarios(settings: &Settings, wanted: &[Scenario]) -> anyhow::Result<()> {
    for scenario in wanted {
        quiet(&Processes::find(&settings.run_dir)?).await?;
        match scenario {
            Scenario::Read => read::run(settings).await.context("scenario read")?,
            Scenario::Batch => batch::run(settings).await.context("scenario batch")?,
            Scenario::Order => order::run(settings).await.context("scenario order")?,
            Scenario::Hot => hot::run(settings).await.context("scenario hot")?,
            Scenario::Events => events::run(settings).await.context("scenario events")?,
            Scenario::Watch => watch::run(settings).await.context("scenario watch")?,
            Scenario::Idle => idle::run(settings).await.context("scenario idle")?,
            Scenario::Roles => roles::run(settings).await.context("scenario roles")?,
        }
    }
    Ok(())
}
