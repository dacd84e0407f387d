//! One run: load and faults, healing, quiet, judgement.

use crate::{
    check,
    facts::Facts,
    history::History,
    hygiene,
    load::{self, Demand, Shop},
    load_facts,
    nemesis::{self, Nemesis},
    process::Env,
    report::{self, Figures},
    scan, settle,
    world::{Form, Programs, World},
};
use anyhow::{Context, Result};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// It must be quiet this long after the last fault, on a machine of any speed; it ends as soon as it is.
const SETTLE: Duration = Duration::from_secs(600);
/// How long one operation is repeated until it has a definite answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// A flood ends after this time even when the shop is too slow for it.
const FLOOD: Duration = Duration::from_secs(1200);
const REPEATS: usize = 40;

/// What a run shall be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The seed of all decisions.
    pub seed: u64,
    /// Orders to place.
    pub orders: usize,
    /// What goes wrong.
    pub nemesis: Nemesis,
    /// How long.
    pub time: Duration,
    /// How the roles are divided among processes.
    pub form: Form,
    /// The folder of the run; must not exist yet.
    pub state: PathBuf,
}

/// What came of a run.
pub struct Outcome {
    /// Promises that were not kept, and what did not recover or settle.
    pub violations: Vec<String>,
    /// The report, for people.
    pub report: String,
}

/// Runs for the time of the options, judges, and takes everything down. With violations the folder stays, for somebody to look at.
///
/// # Errors
/// When the shop cannot be started, hurt, healed or read.
pub async fn run(options: &Options) -> Result<Outcome> {
    Ok(whole(options, false).await?.0)
}

/// The same until all orders are placed, by many customers who do not pause; tells the figures as well.
///
/// # Errors
/// As [`run`].
pub async fn flood(options: &Options) -> Result<(Outcome, Figures)> {
    whole(options, true).await
}

async fn whole(options: &Options, flood: bool) -> Result<(Outcome, Figures)> {
    let programs = Programs::from_env()?;
    let programs = if options.nemesis.moves_clocks() { programs.with_clocks()? } else { programs };
    eprintln!("seed {}", options.seed);
    let mut world = World::start(programs, &options.state, options.form, &Env::new()).await.context("the shop does not start")?;
    eprintln!("the shop runs at {}; logs in {}", world.edge(), world.logs().display());
    let result = judge(&world, options, flood).await;
    let clean = result.as_ref().is_ok_and(|(outcome, _)| outcome.violations.is_empty());
    if !clean {
        eprintln!("kept for a look: {}", options.state.display());
        world.keep();
    }
    result
}

async fn judge(world: &World, options: &Options, flood: bool) -> Result<(Outcome, Figures)> {
    let hot = i64::try_from(options.orders / 15).unwrap_or(i64::MAX).max(3);
    let customers = if flood { load::CROWD } else { load::CUSTOMERS };
    let shop = Arc::new(load::furnish(world, customers, hot).await.context("products and customers")?);
    scan::plant(world, &shop).await.context("the canaries")?;
    let history = Arc::new(History::default());
    let (deaths, idle) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let (struck, took) = tokio::select! {
        both = attacked(world, &shop, &history, options, flood) => both?,
        () = revive(world, &history, &deaths) => unreachable!("it goes on for ever"),
        () = hygiene::watch(world, &history, &idle) => unreachable!("it goes on for ever"),
    };
    let mut violations = Vec::new();
    let settled = tokio::select! {
        busy = quieten(world, &shop, &history) => busy?,
        () = revive(world, &history, &deaths) => unreachable!("it goes on for ever"),
    };
    violations.extend(settled.into_iter().map(|busy| format!("does not settle: {busy}")));
    let deaths = deaths.into_inner().unwrap_or_else(PoisonError::into_inner);
    let recoveries = report::recoveries(&history, &struck, &mut violations);
    load::repeat(&shop, &history, REPEATS).await;
    let mut facts = facts(world, &shop, &history).await?;
    facts.idle = hygiene::judge(idle.into_inner().unwrap_or_else(PoisonError::into_inner), &struck, hygiene::LIMIT);
    let broken = check::all(&facts);
    violations.extend(broken.iter().map(ToString::to_string));
    let report = report::text(options, &facts, &recoveries, &deaths, &broken, &violations);
    let figures = Figures::of(options, &facts, &recoveries, took, violations.len());
    Ok((Outcome { violations, report }, figures))
}

/// Load and faults at once; tells the faults, and how long the load took.
async fn attacked(
    world: &World,
    shop: &Arc<Shop>,
    history: &Arc<History>,
    options: &Options,
    flood: bool,
) -> Result<(Vec<nemesis::Struck>, Duration)> {
    let began = Instant::now();
    let mut demand = Demand { seed: options.seed, orders: options.orders, time: options.time, patience: PATIENCE };
    if !flood {
        let attack = nemesis::attack(world, history, options.nemesis, options.seed, options.time);
        let (took, struck) = tokio::join!(
            async {
                load::run(shop, history, demand).await;
                began.elapsed()
            },
            attack
        );
        return Ok((struck?, took));
    }
    demand.time = FLOOD;
    let (over, told) = watch::channel(false);
    let loaded = async {
        load::flood(shop, history, demand).await;
        over.send_replace(true);
        began.elapsed()
    };
    let (took, struck) = tokio::join!(loaded, nemesis::attack_until(world, history, options.nemesis, options.seed, told));
    Ok((struck?, took))
}

/// Asks for what is unknown, and waits until nothing moves.
async fn quieten(world: &World, shop: &Shop, history: &History) -> Result<Vec<String>> {
    load::resolve(shop, history, PATIENCE).await;
    settle::settle(world, SETTLE).await
}

/// Reads all facts of a world at rest.
///
/// # Errors
/// When a store cannot be read.
pub async fn facts(world: &World, shop: &Shop, history: &History) -> Result<Facts> {
    let mut facts = load_facts::load(world).await.context("the facts")?;
    facts.leaks.extend(scan::search(world).await.context("the search for secrets")?);
    facts.ops = history.ops();
    facts.initial.clone_from(&shop.initial);
    facts.prices.clone_from(&shop.prices);
    Ok(facts)
}

/// Does what every process manager does: starts again what ended by itself, and notes it.
pub async fn revive(world: &World, history: &History, deaths: &Mutex<Vec<String>>) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        for (target, status) in world.take_dead().await {
            let note = format!("{:.1} s: {target} ended by itself ({status})", history.now().as_secs_f64());
            eprintln!("{note}");
            deaths.lock().unwrap_or_else(PoisonError::into_inner).push(note);
            if let Err(error) = world.launch(target).await {
                eprintln!("{target} does not start again: {error:#}");
            }
        }
    }
}
