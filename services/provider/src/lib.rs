//! A payment provider for development and tests: a separate small server with a ledger of its own.
//!
//! It stands for a real provider as far as a shop can tell: it answers, is slow, dies, answers nonsense and calls back. What it has
//! answered it never forgets, so its ledger is a ground truth outside the shop. It holds no card data and must never face a network:
//! outside containers it binds to loopback only.

mod behaviour;
mod book;
mod http;
mod ledger;
mod trace;
mod webhook;

pub use behaviour::{Behaviour, Mode};
pub use book::{Kind, Record};
pub use trace::Tracing;
pub use webhook::{Target, sign};

use anyhow::Context;
use std::{net::SocketAddr, path::PathBuf};
use tokio::{sync::watch, task::JoinHandle};

/// What a provider needs to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; must be a loopback address. Port 0 takes any free port.
    pub address: SocketAddr,
    /// The folder of the ledger file; made when missing.
    pub data: PathBuf,
    /// Where webhooks go; `None` sends none.
    pub webhook: Option<Target>,
    /// Makes spans of requests; `None` makes none.
    pub tracer: Option<opentelemetry_sdk::trace::SdkTracer>,
}

/// A running provider. Dropping it does not stop it; [`Server::stop`] does.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    serving: JoinHandle<std::io::Result<()>>,
}

/// Reads the ledger, binds and serves.
///
/// # Errors
/// When the address is not loopback or is taken, or the ledger cannot be read or written.
pub async fn start(options: Options) -> anyhow::Result<Server> {
    anyhow::ensure!(options.address.ip().is_loopback(), "the development provider binds to loopback only");
    start_anywhere(options).await
}

/// The same at any address, for a container, whose own loopback nobody else can reach; who may reach it there is its operator's care.
///
/// # Errors
/// When the address is taken, or the ledger cannot be read or written.
pub async fn start_anywhere(options: Options) -> anyhow::Result<Server> {
    let (book, ledger) = ledger::open(&options.data).await.with_context(|| format!("ledger in `{}`", options.data.display()))?;
    let webhooks = webhook::Sender::spawn(options.webhook)?;
    let listener = tokio::net::TcpListener::bind(options.address).await.with_context(|| format!("bind `{}`", options.address))?;
    let address = listener.local_addr()?;
    let (stop, mut stopped) = watch::channel(false);
    let mut router = http::router(http::Provider::new(book, ledger, webhooks));
    if let Some(tracer) = options.tracer {
        router = router.layer(axum::middleware::from_fn_with_state(tracer, trace::request));
    }
    let serving = tokio::spawn(async move {
        let asked = async move {
            // An error means the handle is gone, which leaves nobody to stop us but the process itself.
            if stopped.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        axum::serve(listener, router).with_graceful_shutdown(asked).await
    });
    Ok(Server { address, stop, serving })
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes no more connections and waits at most five seconds for open calls; calls that are meant to hang are cut then.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let abort = self.serving.abort_handle();
        if tokio::time::timeout(std::time::Duration::from_secs(5), self.serving).await.is_err() {
            abort.abort();
        }
    }
}
