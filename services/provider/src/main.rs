//! The development payment provider as a program. See the crate's README.

use anyhow::Context;
use clap::Parser;
use mercato_provider::{Options, Target, Tracing};
use std::{net::SocketAddr, path::PathBuf};
use tokio::signal::unix::{SignalKind, signal};

/// A payment provider for development. It holds no card data and, outside containers, binds to loopback only.
#[derive(Debug, Parser)]
#[command(name = "mercato-provider", version)]
struct Arguments {
    /// Where to listen.
    #[arg(long, env = "MERCATO_PROVIDER_ADDR", default_value = "127.0.0.1:8090")]
    addr: SocketAddr,
    /// The folder of the ledger.
    #[arg(long, env = "MERCATO_PROVIDER_DATA", required_unless_present = "healthcheck")]
    data: Option<PathBuf>,
    /// Asks a running provider whether it is well, for containers that have no other client; exit code 0 when it is.
    #[arg(long, value_name = "ADDR")]
    healthcheck: Option<SocketAddr>,
    /// Listens at any address: inside a container, loopback is out of reach for everybody else.
    #[arg(long)]
    inside_container: bool,
    /// Where webhooks go; none are sent without it.
    #[arg(long, env = "MERCATO_PROVIDER_WEBHOOK_URL")]
    webhook_url: Option<String>,
}

/// The secret is read from the environment or a file, never from the command line, where other users see it.
fn webhook(url: Option<String>) -> anyhow::Result<Option<Target>> {
    let Some(url) = url.filter(|url| !url.is_empty()) else { return Ok(None) };
    let secret = match (std::env::var("MERCATO_PROVIDER_WEBHOOK_SECRET"), std::env::var("MERCATO_PROVIDER_WEBHOOK_SECRET_FILE")) {
        (Ok(secret), _) => secret,
        (_, Ok(file)) => std::fs::read_to_string(&file).with_context(|| format!("read `{file}`"))?.trim().to_owned(),
        _ => anyhow::bail!("webhooks need `MERCATO_PROVIDER_WEBHOOK_SECRET` or `MERCATO_PROVIDER_WEBHOOK_SECRET_FILE`"),
    };
    anyhow::ensure!(secret.len() >= 16, "the webhook secret has less than 16 characters");
    Ok(Some(Target { url, secret }))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    if let Some(address) = arguments.healthcheck {
        reqwest::get(format!("http://{address}/healthz")).await?.error_for_status()?;
        return Ok(());
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let webhook = webhook(arguments.webhook_url)?;
    let tracing = Tracing::start()?;
    let tracer = tracing.as_ref().map(Tracing::tracer);
    let options = Options { address: arguments.addr, data: arguments.data.context("--data is missing")?, webhook, tracer };
    let server = if arguments.inside_container {
        mercato_provider::start_anywhere(options).await?
    } else {
        mercato_provider::start(options).await?
    };
    tracing::info!(address = %server.address(), "the development payment provider listens");
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    server.stop().await;
    if let Some(tracing) = tracing {
        tokio::task::spawn_blocking(|| tracing.stop()).await?;
    }
    tracing::info!("stopped");
    Ok(())
}
