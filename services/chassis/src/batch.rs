//! Micro-batching: many callers, one transaction. The batch forms itself while the one before it commits. Where each transaction costs
//! more than a caller's short wait, a batcher may be paced: see [`Batcher::paced`].

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::{Instrument as _, Span};

use crate::error::Fault;
use crate::metrics;
use crate::tasks::Tasks;
use crate::telemetry;
use crate::work::LOST;

/// A paced batcher under load works one part of its time in so many.
const SHARE: u32 = 5;

struct Waiting<I, O> {
    item: I,
    answer: oneshot::Sender<O>,
    /// Who waits, when spans are exported.
    span: Span,
}

/// The entrance to one batching loop. Clones feed the same loop.
pub struct Batcher<I, O> {
    queue: mpsc::Sender<Waiting<I, O>>,
    name: &'static str,
}

impl<I, O> Clone for Batcher<I, O> {
    fn clone(&self) -> Self {
        Batcher { queue: self.queue.clone(), name: self.name }
    }
}

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// Starts the loop. `capacity` items may wait (usually 1024), `most` go into one batch (usually 256). `run` returns one output per
    /// item, in order. At shutdown what is already queued is still run.
    pub fn spawn(
        tasks: &Tasks,
        name: &'static str,
        capacity: usize,
        most: usize,
        run: impl Fn(Vec<I>) -> BoxFuture<'static, Vec<O>> + Send + Sync + 'static,
    ) -> Self {
        Self::paced(tasks, name, capacity, most, Duration::ZERO, run)
    }

    /// The same, but under load, which is when a batch held more than one item, the loop works at most a fifth of the time and lets items
    /// gather for the rest, for `pace` at most: the slower the store, the fuller the batches. An item that comes alone waits for nothing.
    pub fn paced(
        tasks: &Tasks,
        name: &'static str,
        capacity: usize,
        most: usize,
        pace: Duration,
        run: impl Fn(Vec<I>) -> BoxFuture<'static, Vec<O>> + Send + Sync + 'static,
    ) -> Self {
        let (queue, mut waiting) = mpsc::channel::<Waiting<I, O>>(capacity);
        let token = tasks.token();
        tasks.spawn(name, async move {
            let mut taken = Vec::with_capacity(most);
            loop {
                let got = tokio::select! {
                    biased;
                    got = waiting.recv_many(&mut taken, most) => got,
                    () = token.cancelled(), if !waiting.is_closed() => { waiting.close(); continue }
                };
                if got == 0 {
                    return;
                }
                metrics::BATCH_SIZE.record([name], got as f64);
                let began = Instant::now();
                run_batch(name, &run, taken.drain(..)).await;
                let next = began + pace.min(began.elapsed() * SHARE);
                if got > 1 && got < most && next > Instant::now() {
                    tokio::select! { () = token.cancelled() => {} () = tokio::time::sleep_until(next) => {} }
                }
            }
        });
        Batcher { queue, name }
    }

    /// Puts the item into the next batch and waits for its output. Errors: [`Fault::Overloaded`] at once when the queue is full, and
    /// [`Fault::CommitUnknown`] when the batch broke off, because it may have committed.
    pub async fn submit(&self, item: I) -> Result<O, Fault> {
        let (answer, output) = oneshot::channel();
        let span = if telemetry::exporting() { Span::current() } else { Span::none() };
        self.queue.try_send(Waiting { item, answer, span }).map_err(|_| {
            metrics::BATCH_SHED.one([self.name]);
            Fault::Overloaded
        })?;
        output.await.map_err(|_| Fault::CommitUnknown)
    }
}

async fn run_batch<I, O>(
    name: &'static str,
    run: &(impl Fn(Vec<I>) -> BoxFuture<'static, Vec<O>> + Send + Sync),
    taken: impl Iterator<Item = Waiting<I, O>>,
) {
    let (mut items, mut answers, mut spans) = (Vec::new(), Vec::new(), Vec::new());
    for waiting in taken {
        items.push(waiting.item);
        answers.push(waiting.answer);
        spans.push(waiting.span);
    }
    let (count, span) = (items.len(), telemetry::together(name, &spans));
    match AssertUnwindSafe(async { run(items).await }).catch_unwind().instrument(span).await {
        Ok(outputs) => {
            if outputs.len() != count {
                tracing::error!(batch = name, items = count, outputs = outputs.len(), "a batch must give one output for each item");
                return; // dropping the senders tells every waiter that the outcome is unknown
            }
            crate::plant::crash_point("C-13");
            for (answer, output) in answers.into_iter().zip(outputs) {
                // A caller that went away learns the outcome from its idempotency key.
                drop(answer.send(output));
            }
        }
        Err(_) => tracing::error!(batch = name, "batch panicked"),
    }
}

/// A fault that lies with no item: the store is away, or too slow, or the commit went unanswered. Trying each half would only make it
/// worse.
fn everybodys(fault: &Fault) -> bool {
    match fault {
        Fault::CommitUnknown | Fault::Saturated | Fault::Timeout => true,
        Fault::Unavailable { peer, .. } => peer != LOST,
        _ => false,
    }
}

/// Runs a transaction for all items together; when it fails for a reason that may lie with one of them, for each half, and so on, so
/// that one bad item fails alone. `run` gives one output an item, in order. After [`Fault::CommitUnknown`] nothing is run again: the
/// items may have taken effect, and every one of them gets that fault, as they do when the store is away.
pub async fn together<T, O>(
    items: Vec<Arc<T>>,
    run: impl Fn(Vec<Arc<T>>) -> BoxFuture<'static, Result<Vec<O>, Fault>>,
) -> Vec<Result<O, Fault>> {
    let mut outputs = Vec::with_capacity(items.len());
    let mut todo = vec![items];
    while let Some(part) = todo.pop() {
        if part.is_empty() {
            continue;
        }
        match run(part.clone()).await {
            Ok(done) if done.len() == part.len() => outputs.extend(done.into_iter().map(Ok)),
            Ok(done) => {
                tracing::error!(items = part.len(), outputs = done.len(), "a batch must give one output for each item");
                outputs.extend(part.iter().map(|_| Err(Fault::CommitUnknown)));
            }
            Err(fault) if part.len() == 1 => outputs.push(Err(fault)),
            Err(fault) => {
                if everybodys(&fault) {
                    outputs.extend(part.iter().map(|_| Err(fault.again())));
                    continue;
                }
                let right = part[part.len() / 2..].to_vec();
                let left = part[..part.len() / 2].to_vec();
                todo.push(right);
                todo.push(left);
            }
        }
    }
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn numbers(n: u32) -> Vec<Arc<u32>> {
        (0..n).map(Arc::new).collect()
    }

    #[tokio::test]
    async fn one_bad_item_fails_alone_and_the_others_keep_their_order() {
        let results = together(numbers(20), |part| {
            Box::pin(async move {
                if part.iter().any(|n| **n == 7) { Err(Fault::Internal("seven".into())) } else { Ok(part.iter().map(|n| **n).collect()) }
            })
        })
        .await;
        let told: Vec<Option<u32>> = results.iter().map(|r| r.as_ref().ok().copied()).collect();
        assert_eq!(told, (0..20).map(|n| (n != 7).then_some(n)).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_store_that_is_away_is_asked_once() {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let results: Vec<Result<u32, Fault>> = together(numbers(64), |_| {
            RUNS.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Err(Fault::Unavailable { peer: "postgres".into(), detail: "away".into() }) })
        })
        .await;
        assert_eq!((results.len(), RUNS.load(Ordering::Relaxed)), (64, 1));
    }

    #[tokio::test]
    async fn an_unknown_commit_is_never_run_again() {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let results: Vec<Result<u32, Fault>> = together(numbers(8), |_| {
            RUNS.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Err(Fault::CommitUnknown) })
        })
        .await;
        assert!(results.iter().all(|r| matches!(r, Err(Fault::CommitUnknown))));
        assert_eq!(RUNS.load(Ordering::Relaxed), 1);
    }
}
