//! Mistakes on purpose: each is made in the real executable, and the checker that should see it must see it. The same scenes without a
//! mistake are clean. A name as argument plays the scenes whose names have it.

use anyhow::{Context, Result, ensure};
use futures_util::future::{LocalBoxFuture, join_all};
use mercato_chaos::{
    check::{self, Violation},
    planted::{self, LIMIT, Scene, Stage},
    proxy::Link,
};
use reqwest::Method;
use serde_json::json;
use sqlx::Executor as _;
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// A session that is left in a transaction on purpose is seen after a second; the server ends it after five.
const IDLE: Duration = Duration::from_millis(2500);

/// A mistake, the invariant whose checker must see it, and what has to happen for it to show.
struct Bug {
    id: &'static str,
    invariant: &'static str,
    /// It shows as long as it lasts, and nothing has to come to rest first.
    at_once: bool,
    act: for<'a> fn(&'a Scene<'_>) -> LocalBoxFuture<'a, Result<()>>,
}

const BUGS: &[Bug] = &[
    Bug { id: "bug-01", at_once: false, invariant: "I-14", act: |scene| Box::pin(commits_overtake(scene)) },
    Bug { id: "bug-03", at_once: false, invariant: "I-16", act: |scene| Box::pin(all_events_come_again(scene)) },
    Bug { id: "bug-04", at_once: false, invariant: "I-16", act: |scene| Box::pin(consumer_dies(scene)) },
    Bug { id: "bug-05", at_once: true, invariant: "I-20", act: |scene| Box::pin(clients_hang_up(scene)) },
    Bug { id: "bug-07", at_once: false, invariant: "I-12", act: |scene| Box::pin(payment_in_doubt(scene)) },
    Bug { id: "bug-09", at_once: true, invariant: "I-5", act: |scene| Box::pin(four_want_two(scene)) },
    Bug { id: "bug-10", at_once: true, invariant: "I-8", act: |scene| Box::pin(caller_dies(scene)) },
    Bug { id: "bug-11", at_once: false, invariant: "I-17", act: |scene| Box::pin(consumer_dies(scene)) },
    Bug { id: "bug-13", at_once: true, invariant: "I-19", act: |scene| Box::pin(key_for_another(scene)) },
    Bug { id: "bug-14", at_once: true, invariant: "I-22", act: |scene| Box::pin(stranger_asks(scene)) },
    Bug { id: "bug-15", at_once: false, invariant: "I-14", act: |scene| Box::pin(one_order(scene)) },
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let bugs: Vec<&Bug> = BUGS.iter().filter(|bug| wanted.is_empty() || wanted.iter().any(|name| bug.id.contains(name.as_str()))).collect();
    if bugs.is_empty() {
        println!("no scene has such a name");
        return ExitCode::SUCCESS;
    }
    match planted::run(play(&bugs)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Plays the scenes; tells how many did not end as they must.
async fn play(bugs: &[&Bug]) -> Result<usize> {
    nothing_planted_is_shipped()?;
    let began = Instant::now();
    let mut stage = Stage::open("planted").await?;
    println!("the stage is set, {:.1} s", began.elapsed().as_secs_f64());
    let mut failures = 0;
    let mut note = |name: &str, began: Instant, ended: Result<String>| {
        let seconds = began.elapsed().as_secs_f64();
        match ended {
            Ok(told) => println!("{name} ... ok, {seconds:.1} s: {told}"),
            Err(error) => {
                failures += 1;
                println!("{name} ... FAILED, {seconds:.1} s: {error:#}");
            }
        }
    };
    let began = Instant::now();
    note("no mistake", began, sound(&mut stage, bugs).await);
    for bug in bugs {
        let began = Instant::now();
        note(bug.id, began, caught(&mut stage, bug).await);
    }
    if failures > 0 {
        println!("kept for a look: {}", stage.keep().display());
    }
    Ok(failures)
}

/// The executable that is shipped knows neither variable.
fn nothing_planted_is_shipped() -> Result<()> {
    for (variable, there) in [("MERCATO_BIN", false), ("MERCATO_PLANTED_BIN", true)] {
        let program = std::env::var(variable).with_context(|| format!("{variable} must be set: run dev/test"))?;
        let bytes = std::fs::read(&program).with_context(|| program.clone())?;
        for name in ["MERCATO_PLANT", "MERCATO_CRASH"] {
            let found = bytes.windows(name.len()).any(|window| window == name.as_bytes());
            ensure!(found == there, "{name} in {program}: {found}");
        }
    }
    Ok(())
}

/// All scenes one after the other, without a mistake: every invariant holds.
async fn sound(stage: &mut Stage, bugs: &[&Bug]) -> Result<String> {
    let scene = stage.scene("").await?;
    for bug in bugs {
        (bug.act)(&scene).await.with_context(|| format!("the scene of {}", bug.id))?;
    }
    let (busy, violations) = scene.judge().await?;
    ensure!(busy.is_empty() && violations.is_empty(), "{busy:?} {violations:?}");
    Ok(format!("{} operations, every invariant holds", scene.history.ops().len()))
}

async fn caught(stage: &mut Stage, bug: &Bug) -> Result<String> {
    let scene = stage.scene(bug.id).await?;
    (bug.act)(&scene).await?;
    let end = Instant::now() + LIMIT;
    let (mut busy, mut violations) = (Vec::new(), Vec::new());
    let seen = |violations: &[Violation]| violations.iter().find(|violation| violation.invariant == bug.invariant).map(ToString::to_string);
    while seen(&violations).is_none() && Instant::now() < end {
        if bug.at_once {
            violations = check::all(&scene.facts().await?);
        } else {
            (busy, violations) = scene.judge().await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let told =
        seen(&violations).with_context(|| format!("{} did not see it; left over {busy:?}, violated {violations:?}", bug.invariant))?;
    Ok(told.chars().take(160).collect())
}

fn plenty(scene: &Scene<'_>) -> Uuid {
    scene.shop.cold[0]
}

async fn one_order(scene: &Scene<'_>) -> Result<()> {
    scene.place(plenty(scene), "tok_approve").await.context("an order")?;
    Ok(())
}

/// A transaction appends, and one that appended after it commits and is relayed before it. The first one is our own, so that it waits for as
/// long as that takes on any machine.
async fn commits_overtake(scene: &Scene<'_>) -> Result<()> {
    let product = plenty(scene);
    ensure!(relayed(scene, product).await?, "what was said of the product before is not relayed");
    let mut db = scene.database("catalog").await?;
    db.execute("set idle_in_transaction_session_timeout = 0").await?;
    db.execute("begin").await?;
    let version: i64 = sqlx::query_scalar("update product set version = version + 1 where id = $1 returning version")
        .bind(product)
        .fetch_one(&mut db)
        .await?;
    let append = "insert into outbox (shard, event_id, topic, kind, aggregate, sequence, payload)
                  values (0, gen_random_uuid(), 'catalog', 'product.updated', $1, $2, '')";
    sqlx::query(append).bind(product).bind(version).execute(&mut db).await?;
    let body = json!({ "name": "In front", "category": "chaos", "price": { "currencyCode": "EUR", "amount": "1.00" } });
    let made = scene.staff.manage(Method::POST, "/api/products", body).await?;
    let id = made["id"].as_str().unwrap_or_default().parse().context("the new product's id")?;
    ensure!(relayed(scene, id).await?, "the new product's event is not relayed");
    db.execute("commit").await?;
    Ok(())
}

/// Whether the events of a product leave the outbox.
async fn relayed(scene: &Scene<'_>, product: Uuid) -> Result<bool> {
    let mut db = scene.database("catalog").await?;
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        let left = "select exists (select from outbox where aggregate = $1)";
        if !sqlx::query_scalar::<_, bool>(left).bind(product).fetch_one(&mut db).await? {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(false)
}

/// The topics are read again from their first event.
async fn all_events_come_again(scene: &Scene<'_>) -> Result<()> {
    one_order(scene).await?;
    scene.quiet().await?;
    scene.stop().await?;
    scene.rewind().await?;
    scene.start("").await?;
    until(|| scene.caught_up()).await
}

/// A consumer's process dies between the effect of an event and its commit.
async fn consumer_dies(scene: &Scene<'_>) -> Result<()> {
    scene.quiet().await?;
    scene.stop().await?;
    scene.start("C-06:1").await?;
    scene.dies("C-06", "", async || one_order(scene).await).await
}

/// Clients go away while their transactions begin, on a link so slow that many are at that point. Then nobody asks for a while, in which a
/// session that is left in a transaction stays in it.
async fn clients_hang_up(scene: &Scene<'_>) -> Result<()> {
    let storms = if scene.plant.is_empty() { 2 } else { 20 };
    let storm = async {
        for _ in 0..storms {
            scene.world().database_link.set(Link::Slow(Duration::from_millis(40)));
            for _ in 0..2 {
                join_all((0..8).map(|_| scene.hang_up(rand::random_range(5..600)))).await;
            }
            scene.world().database_link.set(Link::Good);
            let end = Instant::now() + IDLE;
            while Instant::now() < end {
                if scene.saw_idle_session() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tokio::select! {
        () = storm => {}
        () = scene.watch_sessions() => {}
    }
    Ok(())
}

/// The provider's answer to an authorisation is garbage, so nobody knows what came of it.
async fn payment_in_doubt(scene: &Scene<'_>) -> Result<()> {
    scene.place(plenty(scene), "tok_garbage").await.context("an order")?;
    Ok(())
}

async fn four_want_two(scene: &Scene<'_>) -> Result<()> {
    for answered in join_all((0..4).map(|_| scene.place(scene.shop.hot, "tok_approve"))).await {
        answered.context("an answer")?;
    }
    Ok(())
}

/// The process dies after the provider has authorised and before that is stored.
async fn caller_dies(scene: &Scene<'_>) -> Result<()> {
    scene.quiet().await?;
    scene.stop().await?;
    scene.start("C-09:1").await?;
    scene.dies("C-09", "", async || one_order(scene).await).await
}

async fn key_for_another(scene: &Scene<'_>) -> Result<()> {
    one_order(scene).await?;
    scene.repeat().await;
    Ok(())
}

async fn stranger_asks(scene: &Scene<'_>) -> Result<()> {
    let placed = scene.place(plenty(scene), "tok_approve").await.context("an order")?;
    scene.pry(&placed).await;
    Ok(())
}

async fn until<F: Future<Output = Result<bool>>>(mut holds: impl FnMut() -> F) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !holds().await? {
        ensure!(Instant::now() < end, "it did not come to pass in {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
