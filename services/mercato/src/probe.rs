//! `mercato healthcheck`: one request to `/readyz`, for containers that have no other client. `mercato edge-drain`: asks Envoy to end well.

use anyhow::{Context, bail};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

const PATIENCE: Duration = Duration::from_secs(2);

/// Succeeds when the process answers that it is ready.
pub async fn ready(url: Option<String>) -> anyhow::Result<()> {
    let configured = std::env::var("MERCATO_ADMIN_ADDR").unwrap_or_else(|_| "127.0.0.1:9464".into());
    let url = url.unwrap_or(configured);
    let rest = url.strip_prefix("http://").unwrap_or(&url);
    let (address, path) = rest.split_once('/').map_or((rest, "/readyz".to_owned()), |(a, p)| (a, format!("/{p}")));
    let path = if path == "/" { "/readyz".to_owned() } else { path };
    let status = tokio::time::timeout(PATIENCE, ask(address, "GET", &path))
        .await
        .with_context(|| format!("{address} did not answer in {PATIENCE:?}"))??;
    if status != 200 {
        bail!("{address}{path} answers {status}");
    }
    Ok(())
}

/// Waits for the signal to end, then has the Envoy of this pod say that it wants no more requests: it fails its health check, finishes what it
/// began and asks clients to connect elsewhere. Who started Envoy gives it the time (`preStop`), for SIGTERM ends it at once.
pub async fn drain_edge(admin: &str) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    for path in ["/healthcheck/fail", "/drain_listeners?graceful&skip_exit"] {
        let status =
            tokio::time::timeout(PATIENCE, ask(admin, "POST", path)).await.with_context(|| format!("{admin} did not answer"))??;
        if status != 200 {
            bail!("{admin}{path} answers {status}");
        }
    }
    eprintln!("the edge drains");
    Ok(())
}

async fn ask(address: &str, method: &str, path: &str) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("{address} cannot be reached"))?;
    stream
        .write_all(format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let code = answer.split(' ').nth(1).with_context(|| format!("{address} does not speak HTTP"))?;
    code.parse().with_context(|| format!("{address} does not speak HTTP"))
}
