//! The batcher.

use std::sync::Arc;

use mercato_chassis::batch::Batcher;
use mercato_chassis::error::Fault;
use mercato_chassis::tasks::Tasks;
use tokio::sync::{Mutex, Semaphore};

use crate::support::LONG;

#[tokio::test]
async fn batches_form_while_one_runs_and_a_full_queue_sheds() {
    let (tasks, gate, sizes) = (Tasks::new(), Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
    let begun = Arc::new(Semaphore::new(0));
    let (g, s, b) = (gate.clone(), sizes.clone(), begun.clone());
    let batcher: Batcher<u32, u32> = Batcher::spawn(&tasks, "test", 4, 3, move |items| {
        let (gate, sizes) = (g.clone(), s.clone());
        b.add_permits(1);
        Box::pin(async move {
            drop(gate.acquire().await);
            sizes.lock().await.push(items.len());
            items.into_iter().map(|i| i * 10).collect()
        })
    });
    // An item is in the queue as soon as its caller was polled.
    let submit = |i: u32| Box::pin(batcher.submit(i));
    let mut first = submit(0);
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    drop(begun.acquire().await); // the first item has been taken
    let mut waiting: Vec<_> = (1..=4).map(submit).collect();
    for one in &mut waiting {
        assert!(futures_util::poll!(one.as_mut()).is_pending());
    }
    assert!(matches!(batcher.submit(5).await, Err(Fault::Overloaded)));
    gate.add_permits(10);
    assert_eq!(first.await.unwrap(), 0);
    for (i, one) in (1..=4).zip(waiting) {
        assert_eq!(one.await.unwrap(), i * 10);
    }
    assert_eq!(*sizes.lock().await, [1, 3, 1]);
    tasks.stop();
    assert!(tasks.drain(LONG).await);
}

#[tokio::test]
async fn a_batch_that_breaks_off_leaves_the_outcome_unknown() {
    let tasks = Tasks::new();
    let batcher: Batcher<u32, u32> = Batcher::spawn(&tasks, "test", 4, 3, |items| {
        Box::pin(async move {
            assert!(items[0] != 1, "a mistake in the batch");
            items
        })
    });
    assert!(matches!(batcher.submit(1).await, Err(Fault::CommitUnknown)));
    assert_eq!(batcher.submit(2).await.unwrap(), 2);
}
