//! One run: load and faults, healing, quiet, judgement.

use crate::{
    check::{self, Violation},
    facts::Facts,
    history::{History, Op, Reply},
    load::{self, Demand, Shop},
    load_facts,
    nemesis::{self, Nemesis, Struck},
    process::Env,
    settle,
    world::{Form, Programs, World},
};
use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The shop must take orders again this long after the end of a fault.
const RECOVERY: Duration = Duration::from_secs(60);
/// A recovery that takes longer is told with what clients heard meanwhile.
const PROMPT: Duration = Duration::from_secs(3);
/// It must be quiet this long after the last fault.
const SETTLE: Duration = Duration::from_secs(240);
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

/// Runs, judges, and takes everything down. With violations the folder stays, for somebody to look at.
///
/// # Errors
/// When the shop cannot be started, hurt, healed or read.
pub async fn run(options: &Options) -> Result<Outcome> {
    let programs = Programs::from_env()?;
    let mut world = World::start(programs, &options.state, options.form, &Env::new()).await.context("the shop does not start")?;
    eprintln!("the shop runs at {}; logs in {}", world.edge(), world.logs().display());
    let result = judge(&world, options).await;
    let clean = result.as_ref().is_ok_and(|outcome| outcome.violations.is_empty());
    if !clean {
        eprintln!("kept for a look: {}", options.state.display());
        world.keep();
    }
    result
}

async fn judge(world: &World, options: &Options) -> Result<Outcome> {
    let hot = i64::try_from(options.orders / 15).unwrap_or(i64::MAX).max(3);
    let shop = Arc::new(load::furnish(world, load::CUSTOMERS, hot).await.context("products and customers")?);
    let history = Arc::new(History::default());
    let demand = Demand { seed: options.seed, orders: options.orders, time: options.time, patience: Duration::from_secs(60) };
    let deaths = Mutex::new(Vec::new());
    let (loaded, struck) = tokio::select! {
        both = async { tokio::join!(
            load::run(&shop, &history, demand),
            nemesis::attack(world, &history, options.nemesis, options.seed, options.time),
        ) } => both,
        () = revive(world, &history, &deaths) => unreachable!("it goes on for ever"),
    };
    let () = loaded;
    let struck = struck?;
    let mut violations = Vec::new();
    let settled = tokio::select! {
        busy = quieten(world, &shop, &history) => busy?,
        () = revive(world, &history, &deaths) => unreachable!("it goes on for ever"),
    };
    violations.extend(settled.into_iter().map(|busy| format!("does not settle: {busy}")));
    let deaths = deaths.into_inner().unwrap_or_else(PoisonError::into_inner);
    let recoveries = recoveries(&history, &struck, &mut violations);
    load::repeat(&shop, &history, REPEATS).await;
    let facts = facts(world, &shop, &history).await?;
    let broken = check::all(&facts);
    violations.extend(broken.iter().map(ToString::to_string));
    let report = report(options, &facts, &recoveries, &deaths, &broken, &violations);
    Ok(Outcome { violations, report })
}

/// Asks for what is unknown, and waits until nothing moves.
async fn quieten(world: &World, shop: &Shop, history: &History) -> Result<Vec<String>> {
    load::resolve(shop, history, Duration::from_secs(30)).await;
    settle::settle(world, SETTLE).await
}

/// Reads all facts of a world at rest.
///
/// # Errors
/// When a store cannot be read.
pub async fn facts(world: &World, shop: &Shop, history: &History) -> Result<Facts> {
    let mut facts = load_facts::load(world).await.context("the facts")?;
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

fn recoveries(history: &History, struck: &[Struck], violations: &mut Vec<String>) -> Vec<String> {
    let mut lines = Vec::new();
    for fault in struck {
        let success = history.first_success_after(fault.ended);
        let again = success.map(|at| at.saturating_sub(fault.ended));
        if again.is_none_or(|again| again > RECOVERY) {
            violations.push(format!("no order for {again:?} after the end of: {}", fault.what));
        }
        let seconds = again.map_or("never".to_owned(), |again| format!("{:.2} s", again.as_secs_f64()));
        let (began, lasted) = (fault.began.as_secs_f64(), (fault.ended - fault.began).as_secs_f64());
        let ready = (fault.ready - fault.ended).as_secs_f64();
        lines.push(format!("  {began:6.1} s  {} for {lasted:.1} s; ready {ready:.2} s, first order {seconds} after its end", fault.what));
        if again.is_none_or(|again| again > PROMPT) {
            let heard = history.unknowns(fault.ended, success.unwrap_or(Duration::MAX));
            let mut heard: Vec<_> = heard.into_iter().map(|(text, times)| (times, text)).collect();
            heard.sort_unstable_by(|one, other| other.cmp(one));
            lines.extend(heard.iter().take(4).map(|(times, text)| format!("            until then {times} x {text}")));
        }
    }
    lines
}

fn report(
    options: &Options,
    facts: &Facts,
    recoveries: &[String],
    deaths: &[String],
    broken: &[Violation],
    violations: &[String],
) -> String {
    let placed: Vec<&Op> = facts.ops.iter().filter(|op| op.places() && !op.repeated).collect();
    let count = |wanted: &dyn Fn(&Reply) -> bool| placed.iter().filter(|op| op.outcome().is_some_and(wanted)).count();
    let first_unknown = |op: &&&Op| op.tries.first().is_some_and(|(_, reply)| !reply.definite());
    let unknown = placed.iter().filter(first_unknown).count();
    let left = placed.iter().filter(|op| op.abandoned && op.outcome().is_none()).count();
    let resolved = placed.iter().filter(first_unknown).filter(|op| op.outcome().is_some()).count();
    let records = facts.topics.values().flatten();
    let repeats = records.clone().count() - records.clone().map(|record| record.event).collect::<BTreeSet<_>>().len();
    let mut lines = vec![
        format!("seed {}, nemesis {:?}, {} s, roles {:?}", options.seed, options.nemesis, options.time.as_secs(), options.form),
        format!(
            "orders: {} asked, {} ok, {} refused; {unknown} unknown at first, {resolved} of them resolved, {left} customers went away",
            placed.len(),
            count(&|reply| reply.seen().is_some()),
            count(&|reply| reply.reason().is_some()),
        ),
        format!("ended as: {}", tally(facts.orders.iter().map(|order| order.status.as_str()))),
        format!("refused as: {}", tally(placed.iter().filter_map(|op| op.outcome()?.reason()))),
        format!(
            "events: {}, {repeats} of them repeats; provider: {}",
            records.clone().count(),
            tally(facts.provider.iter().map(|entry| entry.kind.as_str()))
        ),
        format!("faults: {}", recoveries.iter().filter(|line| !line.contains("until then")).count()),
    ];
    lines.extend_from_slice(recoveries);
    lines.extend(deaths.iter().map(|death| format!("  restarted: {death}")));
    if violations.is_empty() {
        lines.push(format!("all {} invariants hold", check::CHECKERS.len()));
    }
    lines.extend(violations.iter().take(40).map(|violation| format!("VIOLATED {violation}")));
    if let Some(first) = broken.first() {
        let touching = check::touching(facts, first);
        lines.push(format!("the first, {first}, and what touches it:"));
        lines.extend(touching.iter().take(20).map(|op| format!("  {op:?}")));
        if let Some(about) = first.about {
            let records = facts.topics.iter().flat_map(|(topic, records)| records.iter().map(move |record| (topic, record)));
            let mine = records.filter(|(_, record)| record.key == about).take(30);
            lines.extend(mine.map(|(topic, record)| format!("  {topic} {:?} {} {}", record.at, record.sequence, record.kind)));
        }
    }
    lines.join("\n")
}

fn tally<'t>(words: impl Iterator<Item = &'t str>) -> String {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_insert(0) += 1;
    }
    counts.iter().map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(", ")
}
