//! Durable steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use mercato_chassis::pg::Db;
use mercato_chassis::work::{self, Item, Verdict, Worker};
use tokio::sync::{Mutex, Semaphore};
use uuid::Uuid;

use crate::support::{World, eventually, world};

const KIND: &str = "step";

/// Ends its items when `gate` lets it, and notes what it saw.
struct Steps {
    db: Db,
    gate: Arc<Semaphore>,
    again: i32,
    seen: Mutex<Vec<(Uuid, i32)>>,
    finished: Mutex<Vec<(Uuid, bool)>>,
    lease_ms: AtomicU64,
}

impl Steps {
    fn new(w: &World, open: usize, again: i32) -> Arc<Steps> {
        Arc::new(Steps {
            db: w.db.clone(),
            gate: Arc::new(Semaphore::new(open)),
            again,
            seen: Mutex::default(),
            finished: Mutex::default(),
            lease_ms: AtomicU64::new(60_000),
        })
    }

    async fn end(&self, item: &Item) -> bool {
        let item = item.clone();
        let ended = self.db.uow(move |tx| {
            let item = item.clone();
            Box::pin(async move { if work::finish(tx, &item).await? { Ok(()) } else { Err(work::lost()) } })
        });
        ended.await.is_ok()
    }
}

#[async_trait]
impl Worker for Steps {
    fn kinds(&self) -> &'static [&'static str] {
        &[KIND]
    }
    fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms.load(Ordering::SeqCst))
    }
    fn parallel(&self) -> usize {
        2
    }
    async fn run(&self, item: &Item) -> Verdict {
        self.seen.lock().await.push((item.subject, item.attempt));
        self.gate.acquire().await.unwrap().forget();
        if item.attempt <= self.again {
            return Verdict::Again { after: Duration::from_millis(50), error: "not yet".into() };
        }
        let ended = self.end(item).await;
        self.finished.lock().await.push((item.subject, ended));
        Verdict::Done
    }
}

async fn enqueue(w: &World, subject: Uuid, delay: Duration) {
    w.db.uow(move |tx| Box::pin(work::enqueue(tx, KIND, subject, delay))).await.unwrap();
}

const LEFT: &str = "select count(*) from work";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_are_run_again_until_they_are_finished() {
    world(|w| async move {
        let steps = Steps::new(&w, 1000, 2);
        work::spawn(&w.db, vec![steps.clone()], &w.tasks);
        let subjects: Vec<Uuid> = (0..20).map(|_| Uuid::new_v4()).collect();
        for subject in &subjects {
            enqueue(&w, *subject, Duration::ZERO).await;
        }
        enqueue(&w, Uuid::new_v4(), Duration::from_secs(3600)).await;
        w.until(LEFT, 1).await;
        eventually("all ends are noted", async || steps.finished.lock().await.iter().filter(|(_, held)| *held).count() == 20).await;
        let (seen, ended) = (steps.seen.lock().await.clone(), steps.finished.lock().await.clone());
        for subject in &subjects {
            let attempts: Vec<i32> = seen.iter().filter(|(of, _)| of == subject).map(|(_, attempt)| *attempt).collect();
            // Three runs, and another after one that a busy database lost.
            assert!(attempts.is_sorted_by(|a, b| a < b) && attempts.last().is_some_and(|last| *last >= 3), "{attempts:?}");
            assert_eq!(ended.iter().filter(|(of, held)| of == subject && *held).count(), 1);
        }
        let overdue = work::overdue(w.db.read(), &[], Duration::ZERO, 10).await.unwrap();
        assert_eq!((overdue.len(), overdue[0].attempt), (1, 0));
        let subject = overdue[0].subject;
        assert_eq!(w.db.uow(move |tx| Box::pin(work::due_now(tx, subject))).await.unwrap(), 1);
        w.until(LEFT, 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_asked_for_while_it_runs_runs_once_more() {
    world(|w| async move {
        let steps = Steps::new(&w, 0, 0);
        work::spawn(&w.db, vec![steps.clone()], &w.tasks);
        let subject = Uuid::new_v4();
        enqueue(&w, subject, Duration::ZERO).await;
        eventually("the first run", async || steps.seen.lock().await.len() == 1).await;
        enqueue(&w, subject, Duration::ZERO).await;
        enqueue(&w, subject, Duration::ZERO).await;
        steps.gate.add_permits(10);
        w.until(LEFT, 0).await;
        assert_eq!(steps.seen.lock().await.len(), 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_beyond_its_lease_is_cut_off_and_another_begins() {
    world(|w| async move {
        let steps = Steps::new(&w, 0, 0);
        steps.lease_ms.store(400, Ordering::SeqCst);
        work::spawn(&w.db, vec![steps.clone()], &w.tasks);
        let subject = Uuid::new_v4();
        enqueue(&w, subject, Duration::ZERO).await;
        // The run is cut off at the end of its lease and starts again.
        eventually("a second run", async || steps.seen.lock().await.len() >= 2).await;
        let stale: (i32, i64) = sqlx::query_as("select attempt, epoch from work").fetch_one(w.db.read()).await.unwrap();
        assert!(stale.0 >= 2 && stale.1 >= 2);
        // From here on a run may take as long as this machine needs. One that is under way may still be cut off, with its end on the way.
        steps.lease_ms.store(60_000, Ordering::SeqCst);
        steps.gate.add_permits(100);
        w.until(LEFT, 0).await;
        assert!(steps.finished.lock().await.iter().filter(|(_, held)| *held).count() <= 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_cancelled_while_it_runs_cannot_finish() {
    world(|w| async move {
        let steps = Steps::new(&w, 0, 0);
        work::spawn(&w.db, vec![steps.clone()], &w.tasks);
        let subject = Uuid::new_v4();
        enqueue(&w, subject, Duration::ZERO).await;
        eventually("the run", async || steps.seen.lock().await.len() == 1).await;
        w.db.uow(move |tx| Box::pin(async move { work::cancel(tx, KIND, subject).await })).await.unwrap();
        steps.gate.add_permits(1);
        eventually("the end of the run", async || *steps.finished.lock().await == [(subject, false)]).await;
    })
    .await;
}
