//! What a span costs: the spans that the roles make of one order, with nothing but `tracing`, with ours, and with the OpenTelemetry SDK, all
//! sent to the same collector. Each way runs in a process of its own, because a process has one subscriber. Needs no shop.

mod child;
mod sink;
mod tree;
mod way;

use crate::report::Table;
use anyhow::Context;
use child::Report;
use std::time::Duration;
use tokio::process::Command;
pub use way::Way;

/// Every way is measured so often; the middle one counts.
const ROUNDS: usize = 3;

/// Runs all ways and prints what they cost.
pub async fn run(seconds: u32) -> anyhow::Result<()> {
    let sink = sink::start().await?;
    let mut rounds: Vec<Vec<Round>> = Way::ALL.iter().map(|_| Vec::new()).collect();
    for nth in 0..ROUNDS {
        for (way, rounds) in Way::ALL.iter().zip(&mut rounds) {
            eprintln!("spans: {} ({} of {ROUNDS})", way.title(), nth + 1);
            let before = sink.spans();
            let report = ask(*way, &sink.endpoint, seconds).await.with_context(|| way.title().to_owned())?;
            rounds.push(Round { report, got: sink.spans() - before });
        }
    }
    let middle: Vec<Round> = rounds
        .into_iter()
        .map(|mut rounds| {
            rounds.sort_by(|a, b| a.report.each().total_cmp(&b.report.each()));
            rounds.swap_remove(ROUNDS / 2)
        })
        .collect();
    print(&middle);
    Ok(())
}

/// Measures one way, in this process.
pub fn run_one(way: Way, endpoint: &str, seconds: u32) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no runtime")?;
    let report = runtime.block_on(child::measure(way, endpoint, Duration::from_secs(seconds.into())))?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

struct Round {
    report: Report,
    /// Spans that came to the collector.
    got: u64,
}

async fn ask(way: Way, endpoint: &str, seconds: u32) -> anyhow::Result<Report> {
    let own = std::env::current_exe().context("where this program is")?;
    let args = ["spans-of", way.name(), "--endpoint", endpoint, "--seconds", &seconds.to_string()];
    let output = Command::new(own).args(args).envs(way::QUEUE.iter().copied()).kill_on_drop(true).output().await?;
    anyhow::ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("its report")
}

fn print(rounds: &[Round]) {
    let floor = rounds.first().map_or(0.0, |round| round.report.each());
    println!("## Spans\n");
    println!(
        "An order as {} spans of the roles, {} orders a second, on one thread; CPU of the whole process with the export, the middle of {ROUNDS} runs.\n",
        rounds.first().map_or(0, |round| round.report.spans / round.report.orders.max(1)),
        child::PACE
    );
    let mut table = Table::new(["way", "spans made", "sent", "lost", "CPU us a span", "above the floor", "CPU ms an order"]);
    for (way, Round { report, got }) in Way::ALL.iter().zip(rounds) {
        let each = report.each();
        let order = each * way::whole(report.spans) / way::whole(report.orders.max(1));
        table.row(vec![
            way.title().to_owned(),
            report.spans.to_string(),
            got.to_string(),
            report.exported.saturating_sub(*got).to_string(),
            format!("{each:.2}"),
            format!("{:.2}", each - floor),
            format!("{:.3}", order / 1e3),
        ]);
    }
    table.print();
    let mut table = Table::new(["measurement of a histogram inside a span", "ns without exemplar", "ns"]);
    for (way, Round { report, .. }) in Way::ALL.iter().zip(rounds) {
        if let Some(histogram) = &report.histogram {
            table.row(vec![way.title().to_owned(), format!("{:.0}", histogram.bare), format!("{:.0}", histogram.traced)]);
        }
    }
    table.print();
}
