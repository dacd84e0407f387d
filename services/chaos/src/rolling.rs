//! A rollout: every process is asked to end and started again, one after the other, while customers order and read. Nobody may hear of it
//! past one retry.

use crate::{
    acceptance::Findings,
    door::Customer,
    history::{History, Op, Reply},
    load::{self, Demand, Shop},
    nemesis::EXIT,
    process::Env,
    run::{Options, Outcome, revive},
    world::{Form, Programs, ROLES, Target, World, role_of},
};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);
/// How often a visitor looks.
const LOOK: Duration = Duration::from_millis(100);
/// After this time who was refused asks once more.
const AGAIN: Duration = Duration::from_millis(100);
/// Load before the first process ends, and after each is back: what a rollout calls the least time to be ready.
const CALM: Duration = Duration::from_secs(3);
/// How an answer tells that it was too late, or that what was asked for it was; a machine that has too much to do is enough for that.
const LATE: [&str; 8] = [
    "DEADLINE_EXCEEDED",
    "deadline passed",
    "did not answer in time",
    "timed out",
    "OVERLOADED",
    "CONFLICT",
    "OUTCOME_UNKNOWN",
    "token keys is not available",
];

/// What is made of answers that came too late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// They are failures like others.
    Counts,
    /// They are nobody's fault: the machine may be of any speed.
    Excused,
}

impl Late {
    /// Whether what was heard instead of an answer counts.
    fn counts(self, heard: &str) -> bool {
        self == Self::Counts || !LATE.iter().any(|late| heard.contains(late))
    }
}

/// One reading request of a visitor.
struct Visit {
    role: &'static str,
    at: Duration,
    took: Duration,
    /// What each try heard instead of an answer; two are a broken promise.
    failed: Vec<String>,
}

/// One process that was replaced.
pub(crate) struct Restart {
    service: &'static str,
    at: Duration,
    /// From SIGTERM to its end; `None` when it had to be killed.
    gone: Option<Duration>,
    ready: Duration,
}

/// What was heard under load.
pub(crate) struct Heard {
    visits: Vec<Visit>,
    deaths: Vec<String>,
}

/// Replaces every process, one after the other: two processes a role, unless the options say twins.
///
/// # Errors
/// When the shop cannot be started, ended or read.
pub async fn rolling(options: &Options) -> Result<Outcome> {
    let form = if options.form == Form::Together { Form::Pairs } else { options.form };
    let mut world = World::start(Programs::from_env()?, &options.state, form, &Env::new()).await.context("the shop does not start")?;
    let shop = Arc::new(load::furnish(&world, load::CUSTOMERS, 20).await?);
    let (mut findings, history) = (Findings::default(), Arc::new(History::default()));
    let (restarts, heard) = under_load(&world, &shop, &history, options, replace_all(&world, &history)).await?;
    findings.restarts(&restarts, &heard, &history, Late::Counts);
    findings.judge(&world, &shop, &history).await?;
    Ok(findings.outcome(&mut world))
}

/// Asks each process to end, starts it again, and goes on to the next once it is ready.
pub(crate) async fn replace_all(world: &World, history: &History) -> Result<Vec<Restart>> {
    let mut restarts = Vec::new();
    tokio::time::sleep(CALM).await;
    let mut services = world.services().to_vec();
    services.sort_by_key(|service| ROLES.iter().position(|role| *role == role_of(service)));
    for service in services {
        let (target, at) = (Target::Service(service), history.now());
        let gone = world.terminate(target, EXIT).await?;
        world.launch(target).await?;
        world.ready(target).await?;
        restarts.push(Restart { service, at, gone, ready: history.now() });
        tokio::time::sleep(CALM).await;
    }
    Ok(restarts)
}

/// Does the work while customers order at the rate of the options and visitors read from every role.
pub(crate) async fn under_load<T>(
    world: &World,
    shop: &Arc<Shop>,
    history: &Arc<History>,
    options: &Options,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, Heard)> {
    let demand = Demand { seed: options.seed, orders: options.orders, time: options.time, patience: PATIENCE };
    let (visits, deaths) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let staff = Customer::sign_in(&world.edge(), &world.staff.0, &world.staff.1, Uuid::nil()).await?;
    let paid = load::first_order(shop, history, PATIENCE).await?;
    let done = tokio::select! {
        done = load::until(shop, history, demand, work) => done?,
        () = visit(&staff, shop, paid, history, &visits) => unreachable!("it goes on for ever"),
        () = revive(world, history, &deaths) => unreachable!("it goes on for ever"),
    };
    let take = |mutex: Mutex<Vec<String>>| mutex.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((done, Heard { visits: visits.into_inner().unwrap_or_else(PoisonError::into_inner), deaths: take(deaths) }))
}

/// One visitor a role, who looks again and again.
async fn visit(staff: &Customer, shop: &Shop, paid: Uuid, history: &History, visits: &Mutex<Vec<Visit>>) {
    let (buyer, product) = (&shop.customers[0], shop.cold[0]);
    let paths = [
        ("catalog", &**buyer, format!("/api/products/{product}")),
        ("inventory", staff, format!("/api/inventory/{product}")),
        ("ordering", buyer, "/api/orders?pageSize=5".to_owned()),
        ("payment", buyer, format!("/api/payments/{paid}")),
        ("customer", buyer, format!("/api/customers/{}", buyer.id)),
        ("gateway", buyer, "/openapi.json".to_owned()),
    ];
    join_all(paths.iter().map(async |(role, who, path)| {
        loop {
            tokio::time::sleep(LOOK).await;
            let (at, began, mut failed) = (history.now(), Instant::now(), Vec::new());
            while let (Err(why), true) = (who.look(path).await, failed.len() < 2) {
                failed.push(why);
                tokio::time::sleep(AGAIN).await;
            }
            visits.lock().unwrap_or_else(PoisonError::into_inner).push(Visit { role, at, took: began.elapsed(), failed });
        }
    }))
    .await;
}

impl Findings {
    /// Tells of each role what happened while its processes were replaced, and demands that nobody failed past one retry.
    pub(crate) fn restarts(&mut self, restarts: &[Restart], heard: &Heard, history: &History, late: Late) {
        let ops: Vec<Op> = history.ops().into_iter().filter(|op| !op.key.is_empty()).collect();
        for restart in restarts {
            self.demand(restart.gone.is_some(), || format!("{} still ran {EXIT:?} after SIGTERM", restart.service));
        }
        let mut roles: Vec<&str> = restarts.iter().map(|restart| role_of(restart.service)).collect();
        roles.dedup();
        for role in roles {
            let mine: Vec<&Restart> = restarts.iter().filter(|restart| role_of(restart.service) == role).collect();
            self.say(meanwhile(role, &mine, &ops, &heard.visits));
        }
        let heard_of = |reply: &Reply| if let Reply::Unknown(text) = reply { late.counts(text) } else { false };
        let twice = |op: &&Op| op.tries.len() > 1 && op.tries[..2].iter().all(|(_, reply)| heard_of(reply));
        let failed: Vec<&Op> = ops.iter().filter(twice).collect();
        self.demand(failed.is_empty(), || format!("{} orders failed past one retry, such as {:?}", failed.len(), failed.first()));
        let refused: Vec<&Visit> =
            heard.visits.iter().filter(|visit| visit.failed.len() > 1 && visit.failed.iter().all(|text| late.counts(text))).collect();
        self.demand(refused.is_empty(), || {
            let told = refused.iter().take(3).map(|visit| format!("{} at {:.1?}: {:?}", visit.role, visit.at, visit.failed));
            format!("{} reads failed past one retry: {}", refused.len(), told.collect::<Vec<_>>().join("; "))
        });
        self.demand(heard.deaths.is_empty(), || format!("processes ended by themselves: {:?}", heard.deaths));
        self.say(format!("altogether {} changes and {} reads", ops.len(), heard.visits.len()));
    }
}

/// A role's line: what was asked of the whole shop while its processes were replaced, how much of it again, and the longest wait.
fn meanwhile(role: &str, restarts: &[&Restart], ops: &[Op], visits: &[Visit]) -> String {
    let during = |at: Duration| restarts.iter().any(|restart| (restart.at..=restart.ready).contains(&at));
    let ops: Vec<&Op> = ops.iter().filter(|op| during(op.invoked)).collect();
    let visits: Vec<&Visit> = visits.iter().filter(|visit| during(visit.at)).collect();
    let again = ops.iter().filter(|op| op.tries.first().is_some_and(|(_, reply)| !reply.definite())).count();
    let reread: Vec<&&Visit> = visits.iter().filter(|visit| !visit.failed.is_empty()).collect();
    let slowest = ops.iter().filter_map(|op| Some(op.completed()?.saturating_sub(op.invoked))).max().unwrap_or_default();
    let slowest_read = visits.iter().map(|visit| visit.took).max().unwrap_or_default();
    let gone: Vec<String> = restarts.iter().map(|restart| format!("{:.1?}", restart.gone.unwrap_or(EXIT))).collect();
    let heard = reread.first().map_or_else(String::new, |visit| format!(", such as {} {:?}", visit.role, visit.failed[0]));
    format!(
        "{role}: processes gone in {}; {} changes, {again} asked again, the slowest {slowest:.1?}; {} reads, {} asked again{heard}, the slowest \
         {slowest_read:.1?}",
        gone.join(" and "),
        ops.len(),
        visits.len(),
        reread.len(),
    )
}
