//! I-24: three times as much as the shop can take for a while, and then as much as before. What it takes meanwhile must not fall far,
//! it must come back by itself, and its memory must stay bounded.

use crate::{
    acceptance::{Findings, world},
    history::{Ask, History, Reply, Way},
    load::{self, Shop},
    run::{Options, Outcome},
    world::{Target, World},
};
use anyhow::{Context, Result};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long each phase lasts: finding the peak, half of it, three times it.
const PHASE: Duration = Duration::from_secs(15);
/// How long it may take to come back.
const AFTER: Duration = Duration::from_secs(30);
/// Goodput is measured in pieces of this length.
const PIECE: Duration = Duration::from_secs(5);
/// How much more memory than at the peak a process may have under three times the load.
const MORE_MEMORY: u64 = 256 << 20;

/// What was measured; rates in orders taken a second.
#[derive(Debug, Clone)]
pub struct Measured {
    /// As many as it takes from customers who wait for their answers.
    pub peak: f64,
    /// Offered at half of that.
    pub baseline: f64,
    /// Offered three times the peak.
    pub overload: f64,
    /// Offered half of it again: each piece of the time after.
    pub after: Vec<f64>,
    /// The most memory of a process at the peak, in bytes.
    pub memory_at_peak: u64,
    /// And under three times the load.
    pub memory: u64,
}

/// What is wrong with it.
pub fn judge(measured: &Measured) -> Vec<String> {
    let Measured { peak, baseline, overload, after, memory_at_peak, memory } = measured;
    let mut wrong = Vec::new();
    if *overload < 0.8 * peak {
        wrong.push(format!("I-24: {overload:.0} orders/s under three times the load, the peak is {peak:.0}"));
    }
    if !after.iter().any(|rate| *rate >= 0.95 * baseline) {
        wrong.push(format!("I-24: {after:.0?} orders/s in the pieces after, it was {baseline:.0} before"));
    }
    if *memory > memory_at_peak + MORE_MEMORY {
        wrong.push(format!("I-24: {} MB under three times the load, {} MB at the peak", memory >> 20, memory_at_peak >> 20));
    }
    wrong
}

/// Measures, waits until all is quiet, and judges; every other invariant is checked as well.
///
/// # Errors
/// When the shop cannot be started or read.
pub async fn overload(options: &Options) -> Result<Outcome> {
    let mut world = world(options, &[]).await?;
    let shop = Arc::new(load::furnish(&world, load::CROWD, 20).await?);
    let (mut findings, history) = (Findings::default(), Arc::new(History::default()));
    let closed = async {
        let customers = (0..shop.customers.len()).map(|n| waits(&shop, &history, n));
        tokio::time::timeout(PHASE, futures_util::future::join_all(customers)).await
    };
    let (began, memory_at_peak) = (history.now(), memory_during(&world, closed).await?);
    let peak = goodput(&history, began + PIECE, began + PHASE);
    findings.say(format!("the peak: {peak:.0} orders/s, {} MB", memory_at_peak >> 20));
    let (baseline, _) = offered(&world, &shop, &history, peak / 2.0, PHASE).await?;
    findings.say(format!("offered {:.0} orders/s: {baseline:.0} taken", peak / 2.0));
    let began = history.now();
    let (overload, memory) = offered(&world, &shop, &history, peak * 3.0, PHASE).await?;
    findings.say(format!("offered {:.0} orders/s: {overload:.0} taken, {} MB", peak * 3.0, memory >> 20));
    let now = history.now();
    let mut heard: Vec<_> = history.unknowns(began, now).into_iter().map(|(text, times)| (times, text)).collect();
    heard.sort_unstable_by(|one, other| other.cmp(one));
    heard.iter().take(5).for_each(|(times, text)| findings.say(format!("  the others heard: {times} x {text}")));
    let began = now;
    offered(&world, &shop, &history, peak / 2.0, AFTER).await?;
    let pieces = (0..AFTER.as_secs() / PIECE.as_secs()).map(|n| began + PIECE * u32::try_from(n).unwrap_or(0));
    let after: Vec<f64> = pieces.map(|from| goodput(&history, from, from + PIECE)).collect();
    findings.say(format!("offered {:.0} orders/s again: {after:.0?} taken in each {PIECE:?}", peak / 2.0));
    for wrong in judge(&Measured { peak, baseline, overload, after, memory_at_peak, memory }) {
        findings.demand(false, || wrong);
    }
    findings.judge(&world, &shop, &history).await?;
    Ok(findings.outcome(&mut world))
}

/// One customer who orders again as soon as there is an answer.
async fn waits(shop: &Shop, history: &History, n: usize) {
    for round in 0_u64.. {
        order(shop, history, n, &format!("peak-{n}-{round}")).await;
    }
}

/// Orders once and goes away, whatever the answer is.
async fn order(shop: &Shop, history: &History, n: usize, key: &str) {
    let (buyer, product) = (&shop.customers[n % shop.customers.len()], shop.cold[n % shop.cold.len()]);
    let ask = Ask::Place { lines: vec![(product, 1)], token: "tok_approve".into() };
    let op = history.invoke(buyer.id, Way::Grpc, key, ask.clone(), false);
    history.abandon(op);
    history.note(op, buyer.ask(Way::Grpc, key, &ask).await);
}

/// Offers this many orders a second for a time, however long the answers take; tells the rate that was taken, and the memory.
async fn offered(world: &World, shop: &Shop, history: &History, rate: f64, time: Duration) -> Result<(f64, u64)> {
    let began = history.now();
    let load = async {
        let (start, mut open, mut sent) = (Instant::now(), FuturesUnordered::new(), 0_u32);
        while start.elapsed() < time {
            let due = (start.elapsed().as_secs_f64() * rate) as u32;
            while sent < due {
                let n = usize::try_from(sent).unwrap_or(0);
                let key = format!("open-{:.0}-{sent}", began.as_millis());
                open.push(async move { order(shop, history, n, &key).await });
                sent += 1;
            }
            let next = start + Duration::from_secs_f64(f64::from(sent + 1) / rate.max(1.0));
            // answers are taken as they come, orders go out when they are due
            tokio::select! {
                Some(()) = open.next() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
        while open.next().await.is_some() {}
    };
    let memory = memory_during(world, load).await?;
    Ok((goodput(history, began, began + time), memory))
}

/// Orders that were answered with an order in this time, a second.
fn goodput(history: &History, from: Duration, to: Duration) -> f64 {
    let ops = history.ops();
    let answers = ops.iter().filter(|op| op.places()).flat_map(|op| op.tries.first());
    let taken = answers.filter(|(at, reply)| (from..to).contains(at) && matches!(reply, Reply::Ok { .. })).count();
    taken as f64 / (to - from).as_secs_f64()
}

/// The most memory a process of the shop had meanwhile, in bytes.
async fn memory_during<T>(world: &World, work: impl Future<Output = T>) -> Result<u64> {
    let mut most = 0;
    let mut pids = Vec::new();
    for name in world.services() {
        pids.push(world.pid(Target::Service(name)).await?);
    }
    tokio::pin!(work);
    loop {
        for pid in &pids {
            most = most.max(resident(*pid)?);
        }
        tokio::select! {
            _ = &mut work => return Ok(most),
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
    }
}

/// A process' memory, from `/proc`.
fn resident(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&file).with_context(|| file.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).with_context(|| format!("{file} tells no memory"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>().with_context(|| file.clone())? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Measured {
        Measured { peak: 100.0, baseline: 50.0, overload: 90.0, after: vec![10.0, 49.0], memory_at_peak: 100 << 20, memory: 200 << 20 }
    }

    fn broken(fault: impl FnOnce(&mut Measured)) -> bool {
        let mut measured = sound();
        fault(&mut measured);
        !judge(&measured).is_empty()
    }

    #[test]
    fn a_shop_that_breaks_down_is_seen() {
        assert_eq!(judge(&sound()), Vec::<String>::new());
        assert!(broken(|measured| measured.overload = 79.0));
        assert!(broken(|measured| measured.after = vec![10.0, 20.0, 30.0]));
        assert!(broken(|measured| measured.after.clear()));
        assert!(broken(|measured| measured.memory = 1 << 30));
    }
}
