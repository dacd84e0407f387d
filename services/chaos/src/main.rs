//! The fault harness as a program; `make chaos` runs it.

use anyhow::Result;
use clap::{Parser, Subcommand};
use mercato_chaos::{
    acceptance, every,
    nemesis::Nemesis,
    overload,
    report::Figures,
    rolling,
    run::{self, Options, Outcome},
    scenarios, upgrade,
    world::Form,
};
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// Breaks the shop on purpose, under load, and checks that every promise held. Exit code 1 when one did not.
#[derive(Debug, Parser)]
#[command(name = "mercato-chaos", version)]
struct Arguments {
    /// What to run; without it a run of load and faults.
    #[command(subcommand)]
    command: Option<Scenario>,
    /// The seed of all decisions; by default a new one.
    #[arg(long, global = true)]
    seed: Option<u64>,
    /// Orders to place.
    #[arg(long, default_value_t = 1000, global = true)]
    orders: usize,
    /// What goes wrong.
    #[arg(long, value_enum, default_value_t = Nemesis::Mix, global = true)]
    nemesis: Nemesis,
    /// How long, in seconds.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(5..=86_400), global = true)]
    seconds: u64,
    /// How the roles are divided among processes.
    #[arg(long, value_enum, default_value_t = Form::Together, global = true)]
    form: Form,
    /// Where the folder of the run is made.
    #[arg(long, default_value = "/var/tmp", global = true)]
    folder: PathBuf,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Scenario {
    /// 64 clients race for 10 units; and again while the service is killed twice.
    Race,
    /// The broker is down for 30 s under load.
    KafkaOutage,
    /// SIGTERM under load, with a client connected that says nothing.
    Sigterm,
    /// The service, PostgreSQL, the broker and Redis are killed one after the other; how long each takes to come back.
    Recovery,
    /// Redis is killed and frozen under load.
    RedisStall,
    /// The provider answers too late, fails to give back, and its messages are repeated, old and forged.
    Provider,
    /// Three times as many orders as the shop can take, for a while.
    Overload,
    /// Every process is replaced under load, one after the other; two processes a role.
    Rolling,
    /// The next release's schema is applied under load, and every process replaced.
    Upgrade,
    /// Orders as fast as the shop takes them, until all are placed; faults meanwhile.
    Flood,
    /// A flood under every nemesis, one after the other; prints a table.
    All,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = tokio::select! {
        ended = chaos(&arguments) => ended,
        () = asked_to_stop() => Err(anyhow::anyhow!("interrupted")),
    };
    match ended {
        Ok(outcome) => {
            println!("{}", outcome.report);
            if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Ctrl-C or SIGTERM: what was started is taken down all the same.
async fn asked_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("a handler for SIGTERM can be set");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn chaos(arguments: &Arguments) -> Result<Outcome> {
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let options = Options {
        seed,
        orders: arguments.orders,
        nemesis: arguments.nemesis,
        time: Duration::from_secs(arguments.seconds),
        form: arguments.form,
        state: arguments.folder.join(format!("mercato-chaos-{}-{seed}", std::process::id())),
    };
    match arguments.command {
        None => run::run(&options).await,
        Some(Scenario::Race) => acceptance::race(&options).await,
        Some(Scenario::KafkaOutage) => acceptance::kafka_outage(&options).await,
        Some(Scenario::Sigterm) => acceptance::sigterm(&options).await,
        Some(Scenario::Recovery) => scenarios::recovery(&options).await,
        Some(Scenario::RedisStall) => scenarios::redis_stall(&options).await,
        Some(Scenario::Provider) => scenarios::provider(&options).await,
        Some(Scenario::Overload) => overload::overload(&options).await,
        Some(Scenario::Rolling) => rolling::rolling(&options).await,
        Some(Scenario::Upgrade) => upgrade::upgrade(&options, rolling::Late::Counts).await,
        Some(Scenario::Flood) => {
            let (outcome, figures) = run::flood(&options).await?;
            eprintln!("{}\n{figures}", Figures::HEAD);
            Ok(outcome)
        }
        Some(Scenario::All) => every::all(&options).await,
    }
}
