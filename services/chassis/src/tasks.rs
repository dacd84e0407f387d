//! Background tasks that shutdown waits for, and the signal that asks them to stop.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// All tasks of one process. Clones are the same set.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    failed: Arc<AtomicBool>,
}

impl Tasks {
    /// An empty set, not stopping.
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Runs a background task. It must end soon after [`Tasks::stopping`] resolves. A panic in it asks the whole process to stop:
    /// a process whose relay or consumer is gone must be replaced, not limp on.
    pub fn spawn(&self, name: &'static str, f: impl Future<Output = ()> + Send + 'static) {
        let (token, failed) = (self.token.clone(), self.failed.clone());
        self.tracker.spawn(async move {
            if AssertUnwindSafe(f).catch_unwind().await.is_err() {
                tracing::error!(task = name, "background task panicked, stopping");
                crate::metrics::TASK_PANICS.one([name]);
                failed.store(true, Ordering::Release);
                token.cancel();
            }
        });
    }

    /// Runs a piece of work that shutdown waits for and whose result the caller may lose interest in.
    pub(crate) fn track<T: Send + 'static>(&self, f: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.tracker.spawn(f)
    }

    /// Resolves when the process has been asked to stop.
    pub fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// The same signal for owners that keep it.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Asks every task to stop.
    pub fn stop(&self) {
        self.token.cancel();
    }

    /// True once a background task has panicked: the process should exit with an error.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Waits until all tasks have ended; false when some still run after `limit`.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }

    /// Sleeps, or returns false at once when the process stops.
    pub(crate) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.stopping() => false,
            () = tokio::time::sleep(time) => true,
        }
    }
}
