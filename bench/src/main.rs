//! Load on a running shop, on one machine, over loopback, beside the floor it is compared with. Every scenario is bounded in time, prints
//! Markdown on standard output and progress on standard error, and measures the CPU of every process from /proc.

#![forbid(unsafe_code)]

mod database;
mod echo;
mod floor;
mod idle;
mod load;
mod order;
mod paid;
mod processes;
mod read;
mod report;
mod rest;
mod shop;
mod stub;

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
    /// Memory, idle CPU, start time and sizes. Restarts the shop's own processes.
    Idle(Settings),
    /// All of them.
    All(Settings),
    /// The echo: answers GetProduct with one message until its standard input ends.
    Stub {
        /// Where it listens.
        #[arg(long)]
        addr: SocketAddr,
        /// A file with the encoded product it answers with.
        #[arg(long)]
        product: PathBuf,
    },
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
}

impl Settings {
    /// The part of a scenario's time that one of its loads gets.
    fn share(&self, parts: u32, of: u32) -> Duration {
        Duration::from_secs(self.seconds.into()) * parts / of
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Stub { addr, product } => stub::main(addr, &product),
        // One thread: the generator must not take more than one core from those it measures.
        Command::Read(settings) => single(scenarios(&settings, &[Scenario::Read])),
        Command::Order(settings) => single(scenarios(&settings, &[Scenario::Order])),
        Command::Idle(settings) => single(scenarios(&settings, &[Scenario::Idle])),
        Command::All(settings) => single(scenarios(&settings, &[Scenario::Read, Scenario::Order, Scenario::Idle])),
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
    Order,
    Idle,
}

async fn scenarios(settings: &Settings, wanted: &[Scenario]) -> anyhow::Result<()> {
    let processes = Processes::find(&settings.run_dir)?;
    for scenario in wanted {
        quiet(&processes).await?;
        match scenario {
            Scenario::Read => read::run(settings).await.context("scenario read")?,
            Scenario::Order => order::run(settings).await.context("scenario order")?,
            Scenario::Idle => idle::run(settings).await.context("scenario idle")?,
        }
    }
    Ok(())
}
