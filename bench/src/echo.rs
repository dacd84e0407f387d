//! The echo behind an Envoy of its own: the same build and the same rendered configuration as the shop's, other ports.

use crate::Settings;
use crate::processes::Process;
use crate::rest::{Ask, Connection};
use anyhow::Context;
use mercato_contracts::mercato::catalog::v1::{ListProductsResponse, Product};
use prost::Message;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How long both may take to answer.
const START: Duration = Duration::from_secs(20);

/// Runs until it is dropped.
pub struct Echo {
    /// Where its edge is.
    pub url: String,
    /// Where its own gRPC port is, `host:port`.
    pub backend: String,
    folder: PathBuf,
    envoy: Child,
    stub: Child,
}

impl Echo {
    /// Starts both. One product is answered with the first of these, many with all of them.
    pub async fn start(settings: &Settings, products: &[Product]) -> anyhow::Result<Self> {
        let id = products.first().context("an echo needs a product")?.id.clone();
        let folder = std::env::temp_dir().join(format!("mercato-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let message = folder.join("products.bin");
        let all = ListProductsResponse { products: products.to_vec(), ..ListProductsResponse::default() };
        std::fs::write(&message, all.encode_to_vec())?;
        let (backend, edge, admin) = (free_address()?, free_address()?, free_address()?);
        let stub = Command::new(std::env::current_exe()?)
            .args(["stub", "--addr", &backend.to_string(), "--products"])
            .arg(&message)
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the echo cannot be started")?;
        let rendered = Command::new(&settings.mercato)
            .args(["edge", "--out"])
            .arg(&folder)
            .env_remove("MERCATO_EDGE_SPLIT")
            .env("MERCATO_GRPC_ADDR", backend.to_string())
            .env("MERCATO_EDGE_ADDR", edge.to_string())
            .env("MERCATO_EDGE_ADMIN_ADDR", admin.to_string())
            .status()
            .await
            .with_context(|| format!("{} cannot be run", settings.mercato.display()))?;
        anyhow::ensure!(rendered.success(), "the edge's configuration cannot be rendered");
        let log = File::create(folder.join("envoy.log"))?;
        // ends with us, whatever ends us
        let envoy = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&settings.envoy)
            .arg("-c")
            .arg(folder.join("envoy.yaml"))
            .args(["--disable-hot-restart", "--concurrency", "1", "-l", "warn"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("envoy cannot be started")?;
        let mut echo = Self { url: format!("http://{edge}"), backend: backend.to_string(), folder, envoy, stub };
        echo.ready(&id).await?;
        Ok(echo)
    }

    /// Its two processes, the edge first.
    pub fn processes(&self) -> anyhow::Result<[Process; 2]> {
        let pid = |child: &Child| child.id().context("the echo has ended");
        Ok([Process::new("echo envoy", pid(&self.envoy)?), Process::new("echo", pid(&self.stub)?)])
    }

    async fn ready(&mut self, id: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        let path = format!("/api/products/{id}");
        loop {
            let said = match Connection::to(&self.url).send(&Ask::get(&path)).await {
                Ok(answer) if answer.status.is_success() => return Ok(()),
                Ok(answer) => format!("{} {}", answer.status, answer.text()),
                Err(error) => format!("{error:#}"),
            };
            if let Some(status) = self.envoy.try_wait()? {
                anyhow::bail!("envoy ended ({status}): {}", self.log());
            }
            anyhow::ensure!(began.elapsed() < START, "the echo does not answer: {said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("envoy.log")).unwrap_or_default().chars().take(2000).collect()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // a folder that stays behind in the system's temporary folder does no harm
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free port")?.local_addr()?)
}
