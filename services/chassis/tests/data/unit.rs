//! The unit of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use mercato_chassis::error::Fault;

use crate::support::{LONG, TestError, world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_go_away_lose_no_acknowledged_write_and_leave_no_transaction_open() {
    world(|w| async move {
        w.sql("create table acked (v bigint primary key)").await;
        let write = |i: i64| {
            w.db.uow(move |tx| {
                Box::pin(async move {
                    sqlx::query("insert into acked (v) values ($1)").bind(i).execute(tx).await?;
                    Ok::<_, Fault>(())
                })
            })
        };
        let (begun, mut usual) = (Instant::now(), Duration::ZERO);
        let (mut acked, mut cancelled) = (Vec::new(), 0);
        let mut i = 0;
        // 600 writes, or as many as a slow machine makes in half a minute.
        while (i < 600 && begun.elapsed() < Duration::from_secs(30)) || cancelled <= 20 || acked.len() <= 20 {
            assert!(begun.elapsed() < LONG, "{cancelled} cancelled, {} acknowledged of {i}", acked.len());
            let at = Instant::now();
            if i % 10 == 0 && write(-1 - i).await.is_ok() {
                usual = at.elapsed();
            }
            // From none to twice the time that a write takes on this machine at this moment, so that callers leave at every point of it.
            let limit = usual * (i as u32 * 37 % 200) / 100;
            match tokio::time::timeout(limit, write(i)).await {
                Ok(Ok(())) => acked.push(i),
                // Those that went away still run.
                Ok(Err(Fault::Saturated)) => tokio::time::sleep(Duration::from_millis(5)).await,
                Ok(Err(error)) => panic!("{error}"),
                Err(_) => cancelled += 1,
            }
            i += 1;
        }
        let there: i64 =
            sqlx::query_scalar("select count(*) from acked where v = any($1)").bind(&acked).fetch_one(w.db.read()).await.unwrap();
        assert_eq!(there, acked.len() as i64);
        w.until("select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'", 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_and_a_timeout_throw_the_connection_away_and_apply_nothing() {
    world(|w| async move {
        w.sql("create table t (v bigint)").await;
        for _ in 0..8 {
            let result = w.db.uow(|tx| {
                Box::pin(async move {
                    sqlx::query("insert into t (v) values (1)").execute(tx).await?;
                    if true {
                        panic!("a mistake in the closure");
                    }
                    Ok::<_, Fault>(())
                })
            });
            assert!(matches!(result.await, Err(Fault::Internal(_))));
        }
        // Less time than the second statement takes, and enough for a connection and the first one: what that is, is tried.
        let inserted = Arc::new(AtomicBool::new(false));
        let mut budget = Duration::from_secs(1);
        while !inserted.load(Ordering::SeqCst) {
            let inserted = inserted.clone();
            let slow = w.db.uow_within(budget, move |tx| {
                let inserted = inserted.clone();
                Box::pin(async move {
                    sqlx::query("insert into t (v) values (2)").execute(&mut *tx).await?;
                    inserted.store(true, Ordering::SeqCst);
                    sqlx::query("select pg_sleep(600)").execute(tx).await?;
                    Ok::<_, Fault>(())
                })
            });
            assert!(matches!(slow.await, Err(Fault::Timeout | Fault::Saturated)));
            budget *= 2;
        }
        let fine = w.db.uow(|tx| {
            Box::pin(async move {
                sqlx::query("insert into t (v) values (3)").execute(tx).await?;
                Ok::<_, Fault>(())
            })
        });
        fine.await.unwrap();
        assert_eq!(w.count("select sum(v)::bigint from t").await, 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swallowed_statement_error_is_not_acknowledged() {
    world(|w| async move {
        w.sql("create table t (v bigint primary key)").await;
        let result = w.db.uow(|tx| {
            Box::pin(async move {
                sqlx::query("insert into t (v) values (1)").execute(&mut *tx).await?;
                sqlx::query("insert into t (v) values (1)").execute(tx).await.ok();
                Ok::<_, Fault>(())
            })
        });
        assert!(matches!(result.await, Err(Fault::Internal(_))));
        assert_eq!(w.count("select count(*) from t").await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_are_tried_again_and_refusals_are_not() {
    world(|w| async move {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        let result = w.db.uow(move |tx| {
            let counted = counted.clone();
            Box::pin(async move {
                if counted.fetch_add(1, Ordering::SeqCst) < 2 {
                    sqlx::query("do $$ begin raise exception using errcode = '40001'; end $$").execute(tx).await?;
                }
                Ok::<_, Fault>(())
            })
        });
        result.await.unwrap();
        assert_eq!(runs.swap(0, Ordering::SeqCst), 3);
        let counted = runs.clone();
        let refused = w.db.uow(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Err::<(), _>(TestError::SoldOut) })
        });
        assert!(matches!(refused.await, Err(TestError::SoldOut)));
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    })
    .await;
}

/// On one thread, so that no unit runs while they are let in.
#[tokio::test]
async fn too_many_units_are_turned_away_at_once() {
    world(|w| async move {
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let unit = || {
            let gate = gate.clone();
            Box::pin(w.db.uow(move |_| {
                let gate = gate.clone();
                Box::pin(async move {
                    drop(gate.acquire().await);
                    Ok::<_, Fault>(())
                })
            }))
        };
        // A unit takes its place when it is first asked: who comes too late is told then, without waiting for anything.
        let mut let_in: Vec<_> = (0..w.settings.pool_size * 2).map(|_| unit()).collect();
        for unit in &mut let_in {
            assert!(futures_util::poll!(unit).is_pending());
        }
        assert!(matches!(futures_util::poll!(unit()), Poll::Ready(Err(Fault::Saturated))));
        gate.add_permits(1000);
        for unit in let_in {
            unit.await.unwrap();
        }
        // Their places are free again when they have ended.
        let mut next = unit();
        assert!(futures_util::poll!(&mut next).is_pending());
        next.await.unwrap();
    })
    .await;
}
