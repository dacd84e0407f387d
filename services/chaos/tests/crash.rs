//! Deaths at every named place of the real executable: the process aborts there, comes back, customers ask again with the same keys, all of
//! it comes to rest, and every invariant holds. Each place once, then seeded pairs; SEED chooses other pairs, a name as argument plays the
//! places that have it.

use anyhow::{Context, Result, ensure};
use mercato_chaos::{
    load_facts,
    planted::{self, LIMIT, Scene, Stage},
    proxy::Link,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// Every place; what stands together dies one after the other before it has come to rest.
const PLACES: &[&[&str]] =
    &[&["C-01", "C-02", "C-03", "C-13"], &["C-04", "C-05"], &["C-06", "C-07"], &["C-12", "C-08", "C-09"], &["C-10", "C-11"]];
/// Places that customers do not come by often.
const RARE: [&str; 2] = ["C-10", "C-11"];
const PAIRS: usize = 3;
/// Always the same, so that a failure here is one that comes back.
const SEED: u64 = 20_261_121;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |place: &&str| wanted.is_empty() || wanted.iter().any(|name| place.contains(name.as_str()));
    let mut plays: Vec<Vec<String>> =
        PLACES.iter().map(|row| row.iter().filter(|place| chosen(place)).map(|place| format!("{place}:1")).collect()).collect();
    if wanted.is_empty() || wanted.iter().any(|name| name == "pairs") {
        plays.extend(pairs());
    }
    plays.retain(|play| !play.is_empty());
    if plays.is_empty() {
        println!("no place has such a name");
        return ExitCode::SUCCESS;
    }
    match planted::run(run(&plays)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Two places each, one after the other, at a random passing.
fn pairs() -> Vec<Vec<String>> {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("pairs of seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let all: Vec<&str> = PLACES.concat();
    let mut one = || {
        let place = all[rng.random_range(0..all.len())];
        format!("{place}:{}", if RARE.contains(&place) { 1 } else { rng.random_range(1..=3) })
    };
    (0..PAIRS).map(|_| vec![one(), one()]).collect()
}

async fn run(plays: &[Vec<String>]) -> Result<()> {
    let began = Instant::now();
    let mut stage = Stage::open("crash").await?;
    println!("the stage is set, {:.1} s", began.elapsed().as_secs_f64());
    let ended = all(&mut stage, plays).await;
    if ended.is_err() {
        println!("kept for a look: {}", stage.keep().display());
    }
    ended
}

async fn all(stage: &mut Stage, plays: &[Vec<String>]) -> Result<()> {
    let scene = stage.scene("").await?;
    for play in plays {
        let began = Instant::now();
        let name = play.join(", ");
        deaths(&scene, play).await.with_context(|| name.clone())?;
        println!("{name} ... ok, {:.1} s", began.elapsed().as_secs_f64());
    }
    let ops = scene.history.ops();
    let again = ops.iter().filter(|op| op.tries.len() > 1).count();
    println!("{} operations, {again} of them had to ask again; every invariant holds", ops.len());
    Ok(())
}

/// Dies at one place after the other; then everything comes to rest, and all is well.
async fn deaths(scene: &Scene<'_>, places: &[String]) -> Result<()> {
    scene.stop().await?;
    scene.start(places.first().map_or("", String::as_str)).await?;
    for (n, place) in places.iter().enumerate() {
        let next = places.get(n + 1).map_or("", String::as_str);
        let rare = place.starts_with("C-11");
        scene.dies(place, next, async || if rare { stuck(scene).await } else { buy(scene).await }).await?;
    }
    let (busy, violations) = scene.judge().await?;
    ensure!(busy.is_empty() && violations.is_empty(), "left over {busy:?}, violated {violations:?}");
    Ok(())
}

/// One order that is paid and one that is declined, so that stock comes back.
async fn buy(scene: &Scene<'_>) -> Result<()> {
    let many = scene.shop.cold[0];
    let (paid, declined) = tokio::join!(scene.place(many, "tok_approve"), scene.place(many, "tok_decline"));
    paid.context("an order that is paid")?;
    declined.context("an order that is declined")?;
    Ok(())
}

/// An order that is cancelled while its authorisation has arrived and its answer has not; the void fails until it is given up.
async fn stuck(scene: &Scene<'_>) -> Result<()> {
    let link = &scene.world().provider_link;
    link.set(Link::OneWay);
    let placed = scene.place(scene.shop.cold[0], "tok_void_fails-9").await.context("an order")?;
    let id = placed.seen().context("an order that is taken")?.id;
    let end = Instant::now() + LIMIT;
    while !load_facts::provider(&scene.world().provider()).await?.iter().any(|entry| entry.order() == Some(id)) {
        ensure!(Instant::now() < end, "the provider does not hear of the order");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    scene.cancel(&placed).await.context("an answer to the cancellation")?;
    link.set(Link::Good);
    Ok(())
}
