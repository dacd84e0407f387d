//! Scenario `idle`: memory and CPU of a shop that is asked nothing, how long it takes to start, and how large it is.

use crate::Settings;
use crate::metrics::{OWN, admin};
use crate::processes::{self, GENERATOR, Processes, memory};
use crate::report::{Table, megabytes};
use crate::rest::{Ask, Connection};
use anyhow::Context;
use std::time::{Duration, Instant};
use tokio::process::Command;

const WATCH: Duration = Duration::from_secs(5);
/// How long one may take to start.
const START: Duration = Duration::from_secs(60);
/// Restarts of each process of the shop; the median counts.
pub const RESTARTS: usize = 3;

/// Runs it.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    println!("## idle\n");
    let found = Processes::find(&settings.run_dir)?;
    let used = memory_and_cpu(&found).await?;
    let names: Vec<&str> = found.list().iter().map(|p| p.name.as_str()).filter(|n| OWN.contains(n)).collect();
    let mut starts = Table::new(["restarted", "process to ready, ms", "resident after start, MB"]);
    for name in names {
        let mut times = Vec::new();
        let mut resident = 0;
        for _ in 0..RESTARTS {
            eprintln!("restarting {name}");
            let (time, pid) = restart(settings, name).await?;
            times.push(time);
            resident = memory(pid)?.resident;
        }
        times.sort();
        let middle = times.get(times.len() / 2).copied().unwrap_or_default();
        starts.row(vec![name.to_owned(), middle.as_millis().to_string(), megabytes(resident)]);
    }
    println!(
        "Memory of each process with its children, after whatever ran before; PSS divides pages among those who share them. CPU over {} s.\n",
        WATCH.as_secs()
    );
    used.print();
    println!("Start: from the process's birth to `/readyz` saying so, to 10 ms, the middle of {RESTARTS}.\n");
    starts.print();
    let size = std::fs::metadata(&settings.mercato).with_context(|| format!("no {}", settings.mercato.display()))?.len();
    println!("The executable with all roles: {} MB.\n", megabytes(size));
    Ok(())
}

async fn memory_and_cpu(found: &Processes) -> anyhow::Result<Table> {
    let idle = processes::idle(found, WATCH).await?;
    let mut table = Table::new(["process", "PSS MB", "RSS MB", "CPU ms/s"]);
    for process in found.list().iter().filter(|p| p.name != GENERATOR) {
        let memory = memory(process.pid)?;
        let cpu = idle.of(&process.name).as_secs_f64() * 1e3 / idle.time.as_secs_f64();
        table.row(vec![process.name.clone(), megabytes(memory.proportional), megabytes(memory.resident), format!("{cpu:.1}")]);
    }
    Ok(table)
}

/// How long the process took from its birth until it was ready, and its new id.
pub async fn restart(settings: &Settings, name: &str) -> anyhow::Result<(Duration, u32)> {
    part(settings, "stop", &[name]).await?;
    let names = [name];
    let (started, ready) = tokio::join!(part(settings, "start", &names), ready(settings, name));
    started?;
    ready
}

/// Asks until it is ready; the moment of its birth comes from the kernel.
async fn ready(settings: &Settings, name: &str) -> anyhow::Result<(Duration, u32)> {
    let url = admin(name)?;
    let began = Instant::now();
    while began.elapsed() < START {
        if Connection::to(&url).send(&Ask::get("/readyz")).await.is_ok_and(|a| a.status.is_success()) {
            let pid = processes::pid(&settings.run_dir, name).with_context(|| format!("{name} has no process id"))?;
            return Ok((processes::age(pid)?, pid));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    anyhow::bail!("{name} is not ready after {START:?}")
}

/// Has the script `start` or `stop` these processes.
pub async fn part(settings: &Settings, verb: &str, names: &[&str]) -> anyhow::Result<()> {
    let done = Command::new(&settings.part).arg(verb).args(names).output().await.context("the script that starts processes")?;
    anyhow::ensure!(done.status.success(), "{verb} {names:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
