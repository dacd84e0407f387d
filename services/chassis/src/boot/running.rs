//! A process that serves, and how it ends.

use super::serve::report;
use crate::{admin, pg::Db, tasks::Tasks, telemetry};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

/// How long connections may linger after the last call on them.
const LINGER: Duration = Duration::from_secs(1);

/// One gRPC server of the process.
pub(super) struct Server {
    pub(super) calls: Arc<Semaphore>,
    pub(super) streams: Arc<Semaphore>,
    /// Free places when nothing runs.
    pub(super) idle: (usize, usize),
    pub(super) stop: CancellationToken,
    pub(super) served: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Server {
    /// Waits until no call runs, and no stream if asked for; false when that takes longer.
    async fn until_idle(&self, streams: bool, deadline: Instant) -> bool {
        let busy = || self.calls.available_permits() < self.idle.0 || (streams && self.streams.available_permits() < self.idle.1);
        while busy() {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// Waits for the connections to end, for a short time; a client that says nothing must not hold up the end.
    async fn close(mut self, deadline: Instant) {
        self.stop.cancel();
        match tokio::time::timeout_at(deadline.min(Instant::now() + LINGER), &mut self.served).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the server ended badly"),
            Ok(Err(error)) => tracing::error!(%error, "the server panicked"),
            Err(_) => {
                tracing::info!("connections that did not end are dropped");
                self.served.abort();
            }
        }
    }
}

/// A process that serves.
pub struct Running {
    pub(super) grpc: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) http: Vec<(&'static str, SocketAddr)>,
    pub(super) outer: Server,
    pub(super) inner: Server,
    pub(super) health: HealthReporter,
    pub(super) services: Vec<&'static str>,
    pub(super) ready: admin::Ready,
    pub(super) tasks: Tasks,
    pub(super) dbs: Vec<Db>,
    pub(super) drain: Duration,
    pub(super) lame_duck: Duration,
}

impl Running {
    /// Where gRPC is served.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where metrics and probes are served.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where a role serves HTTP of its own.
    pub fn http(&self, role: &str) -> Option<SocketAddr> {
        self.http.iter().find(|(name, _)| *name == role).map(|(_, address)| *address)
    }

    /// Cancelled when the process must end by itself, because a background task panicked.
    pub fn stopping(&self) -> CancellationToken {
        self.tasks.token()
    }

    /// Ends everything in order. Returns whether all work ended by itself within the limit.
    pub async fn shutdown(self) -> bool {
        let began = Instant::now();
        let deadline = began + self.drain;
        self.ready.set(false);
        report(&self.health, &self.services, ServingStatus::NotServing).await;
        // Who balances the load hears of it only when it asks next, and sends calls until then.
        tokio::time::sleep_until(deadline.min(began + self.lame_duck)).await;
        self.outer.stop.cancel();
        let mut clean = self.outer.until_idle(false, deadline).await;
        // Consumers, workers and relays end, and so do streams; calls of theirs to roles inside still work.
        self.tasks.stop();
        clean &= self.outer.until_idle(true, deadline).await;
        self.outer.close(deadline).await;
        clean &= self.tasks.drain(deadline.saturating_duration_since(Instant::now())).await;
        self.inner.close(deadline).await;
        for db in &self.dbs {
            if tokio::time::timeout(Duration::from_secs(1), db.close()).await.is_err() {
                tracing::warn!(role = db.role(), "the connections to the database did not close in time");
            }
        }
        let failed = self.tasks.failed();
        tracing::info!(clean, after_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), "stopped");
        telemetry::shutdown().await;
        clean && !failed
    }
}
