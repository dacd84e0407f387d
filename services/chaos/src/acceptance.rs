//! Scenarios with a fixed end: the race for the last units, the broker's outage, the end on request.

use crate::{
    check,
    door::Customer,
    facts::Facts,
    history::{Ask, History, Op, Reply, Way},
    load::{self, Demand, Shop},
    nemesis::EXIT,
    process::Env,
    proxy::Link,
    run::{Options, Outcome, facts, revive},
    settle,
    world::{Form, Programs, Target, World},
};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use uuid::Uuid;

/// Clients in the race.
const RACERS: usize = 64;
/// Units they race for.
const UNITS: usize = 10;
/// Clients while a service is asked to end, and how often it is.
const BUSY: usize = 24;
const TERMS: usize = 3;
/// A request needs at most this long to reach the service; one sent later may find the door closed, and was never in flight.
const ARRIVAL: Duration = Duration::from_millis(25);
/// The database answers late by this much, so that requests are in flight for a while.
const LATE: Duration = Duration::from_millis(2);
/// How long the broker is away.
const OUTAGE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(600);

/// What a scenario found out.
#[derive(Default)]
pub(crate) struct Findings {
    report: Vec<String>,
    violations: Vec<String>,
}

impl Findings {
    pub(crate) fn say(&mut self, line: String) {
        eprintln!("{line}");
        self.report.push(line);
    }

    pub(crate) fn demand(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(otherwise());
        }
    }

    /// Waits for quiet, and runs every checker.
    pub(crate) async fn judge(&mut self, world: &World, shop: &Shop, history: &History) -> Result<Facts> {
        load::resolve(shop, history, PATIENCE).await;
        let busy = settle::settle(world, SETTLE).await?;
        self.violations.extend(busy.into_iter().map(|busy| format!("does not settle: {busy}")));
        let facts = facts(world, shop, history).await?;
        self.violations.extend(check::all(&facts).iter().map(ToString::to_string));
        Ok(facts)
    }

    pub(crate) fn outcome(mut self, world: &mut World) -> Outcome {
        self.report.extend(self.violations.iter().map(|violation| format!("VIOLATED {violation}")));
        if self.violations.is_empty() {
            self.report.push(format!("as demanded, and all {} invariants hold", check::CHECKERS.len()));
        } else {
            eprintln!("kept for a look: {}", world.logs().display());
            world.keep();
        }
        Outcome { violations: self.violations, report: self.report.join("\n") }
    }
}

/// A shop with some settings of its own.
pub(crate) async fn world(options: &Options, more: &[(&str, &str)]) -> Result<World> {
    let more: Env = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    World::start(Programs::from_env()?, &options.state, options.form, &more).await.context("the shop does not start")
}

/// 64 clients want 10 units: exactly 10 orders are paid, 54 are refused clearly. Once in peace, once while the process that takes the
/// orders is killed twice.
///
/// # Errors
/// When the shop cannot be started, killed or read.
pub async fn race(options: &Options) -> Result<Outcome> {
    let mut world = world(options, &[]).await?;
    let mut shop = load::furnish(&world, RACERS, i64::try_from(UNITS)?).await?;
    let staff = Customer::sign_in(&world.edge(), &world.staff.0, &world.staff.1, Uuid::nil()).await?;
    let second = staff.product("Chaos again", 250, i64::try_from(UNITS)?).await?;
    shop.initial.insert(second, i64::try_from(UNITS)?);
    shop.prices.insert(second, 250);
    let (mut findings, history) = (Findings::default(), History::default());
    run_race(&shop, &history, shop.hot, "calm", Duration::ZERO).await;
    let service = Target::Service(if options.form == Form::Apart { "ordering" } else { "mercato" });
    let kills = async {
        for pause in [400, 3000] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            world.kill(service).await?;
            world.launch(service).await?;
            world.ready(service).await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let (killed, ()) = tokio::join!(kills, run_race(&shop, &history, second, "killed", Duration::from_secs(5)));
    killed?;
    let facts = findings.judge(&world, &shop, &history).await?;
    for (product, name) in [(shop.hot, "in peace"), (second, "killed twice in between")] {
        finish_line(&mut findings, &facts, product, name);
    }
    Ok(findings.outcome(&mut world))
}

/// Every racer asks for one unit, the starts spread over this time.
async fn run_race(shop: &Shop, history: &History, product: Uuid, name: &str, spread: Duration) {
    let racers = shop.customers.iter().enumerate().map(|(n, racer)| async move {
        tokio::time::sleep(spread.mul_f64(n as f64 / RACERS as f64)).await;
        let (key, ask) = (format!("race-{name}-{n}"), Ask::Place { lines: vec![(product, 1)], token: "tok_approve".into() });
        let way = if n % 4 == 3 { Way::Grpc } else { Way::Rest };
        let op = history.invoke(racer.id, way, &key, ask.clone(), false);
        load::until_definite(history, op, racer, way, &key, &ask, PATIENCE).await;
    });
    join_all(racers).await;
}

fn finish_line(findings: &mut Findings, facts: &Facts, product: Uuid, name: &str) {
    let mine = |op: &&Op| matches!(&op.ask, Ask::Place { lines, .. } if lines.iter().any(|(id, _)| *id == product));
    let ops: Vec<&Op> = facts.ops.iter().filter(mine).collect();
    let bought = ops.iter().filter(|op| op.outcome().and_then(Reply::seen).is_some()).count();
    let clear = |op: &&&Op| match op.outcome() {
        Some(Reply::Refused { reason, http, metadata }) => {
            reason == "INSUFFICIENT_STOCK"
                && metadata.get("product_id") == Some(&product.to_string())
                && (*http == 409 || (*http == 0 && op.way == Way::Grpc))
        }
        _ => false,
    };
    let refused = ops.iter().filter(clear).count();
    let sold = |order: &&crate::facts::OrderRow| order.lines.iter().any(|(id, _)| *id == product);
    let paid = facts.orders.iter().filter(sold).filter(|order| order.status == "PAID").count();
    let retried = ops.iter().filter(|op| op.tries.len() > 1).count();
    findings.say(format!("{name}: {bought} bought, {paid} paid, {refused} clearly refused, {retried} had to ask again"));
    findings.demand((bought, paid, refused) == (UNITS, UNITS, RACERS - UNITS), || {
        let odd: Vec<_> = ops.iter().filter(|op| op.outcome().and_then(Reply::seen).is_none() && !clear(op)).take(3).collect();
        format!("{name}: {UNITS} paid and {} refused were demanded; such as {odd:?}", RACERS - UNITS)
    });
}

/// The broker is away for 30 s: orders are taken meanwhile, and every one comes to its end afterwards.
///
/// # Errors
/// When the shop cannot be started, hurt or read.
pub async fn kafka_outage(options: &Options) -> Result<Outcome> {
    let mut world = world(options, &[]).await?;
    let shop = Arc::new(load::furnish(&world, load::CUSTOMERS, 20).await?);
    let (mut findings, history) = (Findings::default(), Arc::new(History::default()));
    let demand = Demand { seed: options.seed, orders: options.orders, time: OUTAGE + Duration::from_secs(15), patience: PATIENCE };
    let outage = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.kill(Target::Kafka).await?;
        let began = history.now();
        tokio::time::sleep(OUTAGE).await;
        let ended = history.now();
        world.launch(Target::Kafka).await?;
        Ok::<_, anyhow::Error>((began, ended))
    };
    let (outage, ()) = tokio::join!(outage, load::run(&shop, &history, demand));
    let (began, ended) = outage?;
    let placed: Vec<Op> = history.ops().into_iter().filter(|op| op.places() && op.invoked > began && op.invoked < ended).collect();
    let at_once = |op: &&Op| op.tries.first().is_some_and(|(at, reply)| reply.definite() && *at < ended);
    let answered = placed.iter().filter(at_once).count();
    let accepted = placed.iter().filter(at_once).filter(|op| op.outcome().and_then(Reply::seen).is_some()).count();
    let mut slowest = placed.iter().filter_map(|op| Some(op.completed()?.saturating_sub(op.invoked))).collect::<Vec<_>>();
    slowest.sort_unstable();
    let slowest = slowest.last().copied().unwrap_or_default();
    findings.say(format!(
        "{} orders asked while the broker was away, {answered} answered on the first try, {accepted} accepted; the slowest took {slowest:?}",
        placed.len()
    ));
    findings.demand(accepted > 0 && answered * 10 >= placed.len() * 9, || "orders were not taken while the broker was away".to_owned());
    let healed = Instant::now();
    let facts = findings.judge(&world, &shop, &history).await?;
    let quiet = healed.elapsed().saturating_sub(settle::QUIET);
    findings.say(format!("{} orders came to their end; quiet {quiet:.0?} after the broker was back and the load over", facts.orders.len()));
    Ok(findings.outcome(&mut world))
}

/// SIGTERM under load: what was asked before it is answered, the process is gone in time although a client is connected that says
/// nothing, and nobody's order is lost.
///
/// # Errors
/// When the shop cannot be started, ended or read.
pub async fn sigterm(options: &Options) -> Result<Outcome> {
    let mut world = world(options, &[]).await?;
    let shop = Arc::new(load::furnish(&world, BUSY, 20).await?);
    let (mut findings, history) = (Findings::default(), Arc::new(History::default()));
    let demand = Demand { seed: options.seed, orders: options.orders.min(400), time: Duration::from_secs(25), patience: PATIENCE };
    let deaths = Mutex::new(Vec::new());
    if options.form != Form::Twins {
        // with two instances it is about what is new, not about what is in flight
        world.database_link.set(Link::Slow(LATE));
    }
    let terms = terminate_all(&world, &history);
    let (terms, ()) = tokio::select! {
        both = async { tokio::join!(terms, load::run(&shop, &history, demand)) } => both,
        () = revive(&world, &history, &deaths) => unreachable!("it goes on for ever"),
    };
    world.database_link.set(Link::Good);
    let ops = history.ops();
    for (service, at, took, gone) in terms? {
        findings.demand(took.is_some(), || format!("{service} still ran {EXIT:?} after SIGTERM"));
        let flying =
            |op: &&Op| !op.key.is_empty() && op.invoked + ARRIVAL < at && op.tries.first().is_some_and(|(answered, _)| *answered >= at);
        let flying: Vec<&Op> = ops.iter().filter(flying).collect();
        let cut: Vec<&&Op> = flying.iter().filter(|op| op.tries.first().is_some_and(|(_, reply)| !reply.definite())).collect();
        let took = took.unwrap_or_default();
        findings.say(format!("{service}: gone in {took:.1?}, back in {gone:.1?}; {} requests in flight, {} cut", flying.len(), cut.len()));
        let twice = cut.iter().filter(|op| op.tries.get(1).is_none_or(|(_, reply)| !reply.definite())).count();
        findings.demand(twice == 0, || format!("{service}: {twice} requests in flight failed past one retry, such as {:?}", cut.first()));
        if options.form == Form::Twins {
            // the other one is there for everything that is new
            let around = |op: &&Op| !op.key.is_empty() && op.invoked + ARRIVAL >= at && op.invoked < at + took + gone;
            let failed = |op: &&Op, n: usize| op.tries.get(n).is_some_and(|(_, reply)| !reply.definite());
            let new: Vec<&Op> = ops.iter().filter(around).collect();
            let once = new.iter().filter(|op| failed(op, 0)).count();
            let twice: Vec<&&Op> = new.iter().filter(|op| failed(op, 0) && failed(op, 1)).collect();
            findings.say(format!("{service}: {} requests came meanwhile, {once} had to be sent again", new.len()));
            findings.demand(twice.is_empty(), || format!("{service}: {} of them failed past one retry: {:?}", twice.len(), twice.first()));
        }
    }
    findings.judge(&world, &shop, &history).await?;
    Ok(findings.outcome(&mut world))
}

/// A service, when it got SIGTERM, how long it took to go, and how long it was away.
type Term = (Target, Duration, Option<Duration>, Duration);

async fn terminate_all(world: &World, history: &History) -> Result<Vec<Term>> {
    let mut terms = Vec::new();
    let rounds = TERMS.div_ceil(world.services().len());
    for name in world.services().iter().cycle().take(rounds * world.services().len()) {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let service = Target::Service(name);
        let silent = TcpStream::connect(("127.0.0.1", world.grpc_port(name))).await.context("the silent client")?;
        let at = history.now();
        let took = world.terminate(service, EXIT).await?;
        drop(silent);
        world.launch(service).await?;
        world.ready(service).await?;
        terms.push((service, at, took, history.now().saturating_sub(at)));
    }
    Ok(terms)
}
