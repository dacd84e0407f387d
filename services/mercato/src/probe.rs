//! `mercato healthcheck`: one request to `/readyz`, for containers that have no other client. `mercato get`: any other. `mercato edge-drain`:
//! asks Envoy to end well.

use anyhow::bail;
use http::{Method, StatusCode};
use mercato_chassis::admin;
use std::{
    io::{Write as _, stdout},
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

const PATIENCE: Duration = Duration::from_secs(2);

/// Succeeds when the process answers that it is ready.
pub async fn ready(url: Option<String>) -> anyhow::Result<()> {
    let url = absolute(url.as_deref().unwrap_or_default(), "/readyz");
    let (status, _) = admin::ask(Method::GET, &url, PATIENCE).await?;
    if status != StatusCode::OK {
        bail!("{url} answers {status}");
    }
    Ok(())
}

/// Prints what is answered; fails when it is no good answer.
pub async fn print(url: &str) -> anyhow::Result<()> {
    let url = absolute(url, "/");
    let (status, body) = admin::ask(Method::GET, &url, PATIENCE).await?;
    stdout().write_all(&body)?;
    if !status.is_success() {
        bail!("{url} answers {status}");
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
        let (status, _) = admin::ask(Method::POST, &format!("http://{admin}{path}"), PATIENCE).await?;
        if status != StatusCode::OK {
            bail!("{admin}{path} answers {status}");
        }
    }
    eprintln!("the edge drains");
    Ok(())
}

/// What was meant by an address, a path at this process's admin address, both, or neither.
fn absolute(given: &str, path: &str) -> String {
    let given = given.strip_prefix("http://").unwrap_or(given);
    let (address, given) = given.split_once('/').unwrap_or((given, ""));
    let configured = || std::env::var("MERCATO_ADMIN_ADDR").unwrap_or_else(|_| "127.0.0.1:9464".into());
    let address = if address.is_empty() { configured() } else { address.to_owned() };
    if given.is_empty() { format!("http://{address}{path}") } else { format!("http://{address}/{given}") }
}

#[cfg(test)]
mod tests {
    use super::absolute;

    #[test]
    fn an_address_may_be_left_out_and_so_may_a_path() {
        let here = std::env::var("MERCATO_ADMIN_ADDR").unwrap_or_else(|_| "127.0.0.1:9464".into());
        assert_eq!(absolute("", "/readyz"), format!("http://{here}/readyz"));
        assert_eq!(absolute("/metrics", "/"), format!("http://{here}/metrics"));
        assert_eq!(absolute("http://127.0.0.1:1", "/readyz"), "http://127.0.0.1:1/readyz");
        assert_eq!(absolute("127.0.0.1:9901/clusters?x=y", "/"), "http://127.0.0.1:9901/clusters?x=y");
    }
}
