//! `mercato healthcheck`: one request to `/readyz`, for containers that have no other client.

use anyhow::{Context, bail};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(2);

/// Succeeds when the process answers that it is ready.
pub async fn ready(url: Option<String>) -> anyhow::Result<()> {
    let configured = std::env::var("MERCATO_ADMIN_ADDR").unwrap_or_else(|_| "127.0.0.1:9464".into());
    let url = url.unwrap_or(configured);
    let rest = url.strip_prefix("http://").unwrap_or(&url);
    let (address, path) = rest.split_once('/').map_or((rest, "/readyz".to_owned()), |(a, p)| (a, format!("/{p}")));
    let path = if path == "/" { "/readyz".to_owned() } else { path };
    let status = tokio::time::timeout(PATIENCE, ask(address, &path))
        .await
        .with_context(|| format!("{address} did not answer in {PATIENCE:?}"))??;
    if status != 200 {
        bail!("{address}{path} answers {status}");
    }
    Ok(())
}

async fn ask(address: &str, path: &str) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("{address} cannot be reached"))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let code = answer.split(' ').nth(1).with_context(|| format!("{address} does not speak HTTP"))?;
    code.parse().with_context(|| format!("{address} does not speak HTTP"))
}
