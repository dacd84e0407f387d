//! What came of a run, for people: recoveries, counts, the first violation and what touches it; and one line of a table.

use crate::{
    check::{self, Violation},
    facts::Facts,
    history::{History, Op, Reply},
    nemesis::{Nemesis, Struck},
    run::Options,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// The shop must take orders again this long after the end of a fault, on a machine of any speed; `recovery` holds it to the real limits.
const RECOVERY: Duration = Duration::from_secs(180);
/// A recovery that takes longer is told with what clients heard meanwhile.
const PROMPT: Duration = Duration::from_secs(3);

/// How the shop came back after one fault.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// From the end of the fault to the first order that was taken; `None` when none was, or nobody asked any more.
    pub took: Option<Duration>,
    /// In words, with what clients heard until then.
    lines: Vec<String>,
}

/// Looks at every fault, and notes those after which the shop did not come back.
pub fn recoveries(history: &History, struck: &[Struck], violations: &mut Vec<String>) -> Vec<Recovery> {
    let last = history.last_asked().unwrap_or_default();
    struck.iter().map(|fault| recovery(history, fault, last, violations)).collect()
}

fn recovery(history: &History, fault: &Struck, last: Duration, violations: &mut Vec<String>) -> Recovery {
    let asked = last > fault.ended;
    let success = history.first_success_after(fault.ended).filter(|_| asked);
    let took = success.map(|at| at.saturating_sub(fault.ended));
    if asked && took.is_none_or(|took| took > RECOVERY) {
        violations.push(format!("no order for {took:?} after the end of: {}", fault.what));
    }
    let after = match took {
        Some(took) => format!("first order {:.2} s after its end", took.as_secs_f64()),
        None if asked => "no order after its end".to_owned(),
        None => "nobody ordered any more".to_owned(),
    };
    let (began, lasted) = (fault.began.as_secs_f64(), (fault.ended - fault.began).as_secs_f64());
    let ready = (fault.ready - fault.ended).as_secs_f64();
    let mut lines = vec![format!("  {began:6.1} s  {} for {lasted:.1} s; ready {ready:.2} s, {after}", fault.what)];
    if asked && took.is_none_or(|took| took > PROMPT) {
        let heard = history.unknowns(fault.ended, success.unwrap_or(Duration::MAX));
        let mut heard: Vec<_> = heard.into_iter().map(|(text, times)| (times, text)).collect();
        heard.sort_unstable_by(|one, other| other.cmp(one));
        lines.extend(heard.iter().take(4).map(|(times, text)| format!("            until then {times} x {text}")));
    }
    Recovery { took, lines }
}

/// The figures of a run.
#[derive(Debug, Clone)]
pub struct Figures {
    /// What went wrong.
    pub nemesis: Nemesis,
    /// The seed.
    pub seed: u64,
    /// Orders asked for, without repetitions.
    pub asked: usize,
    /// Answered with an order.
    pub placed: usize,
    /// Ended as paid.
    pub paid: usize,
    /// Ended as cancelled.
    pub cancelled: usize,
    /// Definitely refused.
    pub refused: usize,
    /// Without a definite answer at the first try.
    pub unknown: usize,
    /// Those of them that had one in the end.
    pub resolved: usize,
    /// Faults.
    pub faults: usize,
    /// The longest time from the end of a fault to the next order.
    pub longest: Option<Duration>,
    /// How long customers ordered.
    pub load: Duration,
    /// Promises that were not kept.
    pub violations: usize,
}

impl Figures {
    /// Counts.
    pub fn of(options: &Options, facts: &Facts, recoveries: &[Recovery], load: Duration, violations: usize) -> Self {
        let placed: Vec<&Op> = facts.ops.iter().filter(|op| op.places() && !op.repeated).collect();
        let count = |wanted: &dyn Fn(&Reply) -> bool| placed.iter().filter(|op| op.outcome().is_some_and(wanted)).count();
        let ended = |status: &str| facts.orders.iter().filter(|order| order.status == status).count();
        let unknown: Vec<_> = placed.iter().filter(|op| op.tries.first().is_some_and(|(_, reply)| !reply.definite())).collect();
        Self {
            nemesis: options.nemesis,
            seed: options.seed,
            asked: placed.len(),
            placed: count(&|reply| reply.seen().is_some()),
            paid: ended("PAID") + ended("COMPLETED"),
            cancelled: ended("CANCELLED"),
            refused: count(&|reply| reply.reason().is_some()),
            unknown: unknown.len(),
            resolved: unknown.iter().filter(|op| op.outcome().is_some()).count(),
            faults: recoveries.len(),
            longest: recoveries.iter().filter_map(|recovery| recovery.took).max(),
            load,
            violations,
        }
    }

    /// The head of the table that [`Display`](fmt::Display) makes lines for.
    pub const HEAD: &str = "| nemesis | seed | asked | placed | paid | cancelled | refused | unknown, resolved | faults | longest recovery \
        | load | verdict |\n|---|---|---|---|---|---|---|---|---|---|---|---|";
}

impl fmt::Display for Figures {
    /// One line of a Markdown table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nemesis = clap::ValueEnum::to_possible_value(&self.nemesis).map_or_else(String::new, |value| value.get_name().to_owned());
        let longest = self.longest.map_or("-".to_owned(), |longest| format!("{:.1} s", longest.as_secs_f64()));
        let verdict = if self.violations == 0 { "green".to_owned() } else { format!("**{} violations**", self.violations) };
        let Self { seed, asked, placed, paid, cancelled, refused, unknown, resolved, faults, load, .. } = self;
        write!(
            f,
            "| {nemesis} | {seed} | {asked} | {placed} | {paid} | {cancelled} | {refused} | {unknown}, {resolved} | {faults} | {longest} \
             | {:.0} s | {verdict} |",
            load.as_secs_f64()
        )
    }
}

/// The whole report.
pub fn text(options: &Options, facts: &Facts, recoveries: &[Recovery], deaths: &[String], broken: &[Violation], all: &[String]) -> String {
    let figures = Figures::of(options, facts, recoveries, Duration::ZERO, all.len());
    let placed: Vec<&Op> = facts.ops.iter().filter(|op| op.places() && !op.repeated).collect();
    let left = placed.iter().filter(|op| op.abandoned && op.outcome().is_none()).count();
    let records = facts.topics.values().flatten();
    let repeats = records.clone().count() - records.clone().map(|record| record.event).collect::<BTreeSet<_>>().len();
    let mut lines = vec![
        format!("seed {}, nemesis {:?}, {} s, roles {:?}", options.seed, options.nemesis, options.time.as_secs(), options.form),
        format!(
            "orders: {} asked, {} ok, {} refused; {} unknown at first, {} of them resolved, {left} customers went away",
            figures.asked, figures.placed, figures.refused, figures.unknown, figures.resolved,
        ),
        format!("ended as: {}", tally(facts.orders.iter().map(|order| order.status.as_str()))),
        format!(
            "cancelled for: {}",
            tally(facts.orders.iter().filter(|order| order.status == "CANCELLED").map(|order| order.reason.as_str()))
        ),
        format!("refused as: {}", tally(placed.iter().filter_map(|op| op.outcome()?.reason()))),
        format!(
            "events: {}, {repeats} of them repeats; provider: {}",
            records.clone().count(),
            tally(facts.provider.iter().map(|entry| entry.kind.as_str()))
        ),
        format!("faults: {}", recoveries.len()),
    ];
    lines.extend(recoveries.iter().flat_map(|recovery| recovery.lines.iter().cloned()));
    lines.extend(deaths.iter().map(|death| format!("  restarted: {death}")));
    if all.is_empty() {
        lines.push(format!("all {} invariants hold", check::CHECKERS.len()));
    }
    lines.extend(all.iter().take(40).map(|violation| format!("VIOLATED {violation}")));
    if let Some(first) = broken.first() {
        lines.extend(around(facts, first));
    }
    lines.join("\n")
}

/// What touches a violation.
fn around(facts: &Facts, first: &Violation) -> Vec<String> {
    let mut lines = vec![format!("the first, {first}, and what touches it:")];
    lines.extend(check::touching(facts, first).iter().take(20).map(|op| format!("  {op:?}")));
    if let Some(about) = first.about {
        let records = facts.topics.iter().flat_map(|(topic, records)| records.iter().map(move |record| (topic, record)));
        let mine = records.filter(|(_, record)| record.key == about).take(30);
        lines.extend(mine.map(|(topic, record)| format!("  {topic} {:?} {} {}", record.at, record.sequence, record.kind)));
    }
    lines
}

fn tally<'t>(words: impl Iterator<Item = &'t str>) -> String {
    let mut counts = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_insert(0) += 1;
    }
    counts.iter().map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(", ")
}
