//! The one executable: every role, its migrations, the seed, and the edge's configuration.

#![forbid(unsafe_code)]

mod database;
mod edge;
mod events;
mod keys;
mod probe;
mod seed;
mod smoke;

use clap::{Parser, Subcommand};
use mercato_chassis::boot;
use mercato_chassis::config::process_env;
use mercato_chassis::role::Platform;
use std::path::PathBuf;
use std::process::ExitCode;

/// The system's allocator keeps what a thread once used: after some sign-ins each hashing thread held its 19 MiB blocks for good, 540 MB in
/// all. This one gives memory back, and is faster on many small messages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Mercato, a commerce backend. Settings are environment variables: `mercato config` lists them.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs roles until a signal.
    Run {
        /// Roles with commas, or `all`.
        #[arg(long, value_delimiter = ',', required = true)]
        role: Vec<String>,
    },
    /// Creates databases, tables and topics that are missing. May be repeated.
    Migrate {
        /// Roles with commas, or `all`.
        #[arg(long, value_delimiter = ',', default_value = "all")]
        role: Vec<String>,
    },
    /// Lists the roles.
    Roles,
    /// Prints the effective settings, secrets masked; fails when one is wrong.
    Config {
        /// Roles with commas, or `all`.
        #[arg(long, value_delimiter = ',', default_value = "all")]
        role: Vec<String>,
    },
    /// Asks a running process whether it is ready; exit code 0 when it is.
    Healthcheck {
        /// Where it answers; MERCATO_ADMIN_ADDR when absent.
        #[arg(long)]
        url: Option<String>,
    },
    /// Fills the shop with products, stock and development logins. May be repeated.
    Seed {
        /// How many products.
        #[arg(long, default_value_t = 10_000)]
        products: usize,
    },
    /// Writes Envoy's configuration and descriptors.
    Edge {
        /// The folder.
        #[arg(long)]
        out: PathBuf,
    },
    /// Asks the database of a role, and prints the answer as a table.
    Sql {
        /// The role.
        role: String,
        /// The statement; several, divided by semicolons, are one transaction. `-`: standard input.
        statement: String,
    },
    /// Prints what an admin address of this machine answers to GET.
    Get {
        /// A path at MERCATO_ADMIN_ADDR, as `/metrics`; or another address with it, as `127.0.0.1:9901/clusters`.
        url: String,
    },
    /// The log of events in backups.
    Events {
        #[command(subcommand)]
        command: events::Events,
    },
    /// Waits to be ended and then drains the Envoy beside it; a container of its own in Envoy's pod.
    EdgeDrain {
        /// Envoy's admin interface.
        #[arg(long, default_value = "127.0.0.1:9901")]
        admin: String,
    },
    /// Places an order through the door, as a customer, and waits until it is paid; exit code 0 when it is.
    Smoke(smoke::Smoke),
    /// Prints the OpenAPI document.
    Openapi,
}

/// Everything Mercato consists of.
fn platform() -> Platform {
    Platform {
        roles: vec![
            Box::new(mercato_catalog::Catalog),
            Box::new(mercato_inventory::Inventory),
            Box::new(mercato_ordering::Ordering),
            Box::new(mercato_payment::Payment),
            Box::new(mercato_customer::Customer),
            Box::new(mercato_gateway::Gateway),
        ],
        key_source: keys::from_customer,
        topics: &["orders", "inventory", "payments", "catalog", "customers"],
    }
}

pub(crate) fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { role } => boot::block_on(boot::run(platform(), &role)),
        Command::Migrate { role } => ended(boot::block_on(boot::migrate(platform(), &role)).map_err(|e| (e.to_string(), e.exit_code()))),
        Command::Roles => {
            for role in platform().roles {
                println!("{}", role.name());
            }
            ExitCode::SUCCESS
        }
        Command::Config { role } => config(&role),
        Command::Healthcheck { url } => ended(boot::block_on(probe::ready(url)).map_err(failed)),
        Command::Sql { role, statement } => ended(boot::block_on(database::ask(&platform(), &role, statement)).map_err(failed)),
        Command::Get { url } => ended(boot::block_on(probe::print(&url)).map_err(failed)),
        Command::Seed { products } => ended(boot::block_on(seed::run(&platform(), products)).map_err(failed)),
        Command::Edge { out } => ended(edge::write(&out).map_err(failed)),
        Command::Events { command } => ended(boot::block_on(events::run(&platform(), command)).map_err(failed)),
        Command::EdgeDrain { admin } => ended(boot::block_on(probe::drain_edge(&admin)).map_err(failed)),
        Command::Smoke(smoke) => ended(boot::block_on(smoke::run(smoke)).map_err(failed)),
        Command::Openapi => {
            println!("{}", mercato_contracts::OPENAPI);
            ExitCode::SUCCESS
        }
    }
}

fn config(roles: &[String]) -> ExitCode {
    let (text, errors) = boot::config(&platform(), roles, process_env());
    print!("{text}");
    if errors.is_empty() {
        return ExitCode::SUCCESS;
    }
    for error in errors {
        eprintln!("error: {error}");
    }
    ExitCode::from(boot::EXIT_CONFIG)
}

fn failed(error: anyhow::Error) -> (String, ExitCode) {
    (format!("{error:#}"), ExitCode::FAILURE)
}

fn ended(result: Result<(), (String, ExitCode)>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((text, code)) => {
            for line in text.lines() {
                eprintln!("error: {line}");
            }
            code
        }
    }
}
