//! Scenario `roles`: memory at rest and start time of each role in a process of its own. A shop that runs in one process is stopped for it
//! and started again afterwards.

use crate::Settings;
use crate::idle::{RESTARTS, part, restart};
use crate::measured::times;
use crate::metrics::OWN;
use crate::processes::{Process, Processes, idle, memory, pid};
use crate::report::{Table, megabytes, number};
use anyhow::Context;
use std::time::Duration;

/// The executable with all roles in it, which is no role.
const ALL: &str = "mercato";
/// After its start, until it is measured.
const REST: Duration = Duration::from_secs(5);
const WATCH: Duration = Duration::from_secs(3);
/// Megabytes one role may hold, and milliseconds it may take to start.
const GOAL: (u64, u128) = (40, 1000);

/// Runs it.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    let together = pid(&settings.run_dir, ALL).is_some();
    let roles: Vec<&str> = OWN.iter().copied().filter(|name| *name != ALL).collect();
    if together {
        part(settings, "stop", &[ALL]).await?;
        part(settings, "start", &roles).await?;
    }
    let measured = measure(settings, &roles).await;
    if together {
        part(settings, "stop", &roles).await?;
        part(settings, "start", &[ALL]).await?;
    }
    let table = measured?;
    println!("## roles: each in a process of its own\n");
    println!(
        "Each role is started {RESTARTS} times while the others run; the middle counts, from the process's birth to `/readyz`, which it \
         answers with success just after its gRPC health says SERVING; to 10 ms. Memory {} s later, asked nothing; `private` is what no other \
         process shares, PSS divides shared pages, such as the executable's, among the roles. CPU over {} s. Goals: {} MB resident and {} ms.\n",
        REST.as_secs(),
        WATCH.as_secs(),
        GOAL.0,
        GOAL.1,
    );
    table.print();
    Ok(())
}

async fn measure(settings: &Settings, roles: &[&str]) -> anyhow::Result<Table> {
    let mut table = Table::new(["role", "start ms", "resident MB", "of goal", "PSS MB", "private MB", "CPU ms/s", "threads"]);
    for role in roles {
        let mut starts = Vec::new();
        let mut process = None;
        for _ in 0..RESTARTS {
            eprintln!("restarting {role}");
            let (time, pid) = restart(settings, role).await?;
            starts.push(time.as_millis());
            process = Some(pid);
        }
        starts.sort_unstable();
        let pid = process.context("never started")?;
        tokio::time::sleep(REST).await;
        let used = idle(&Processes::of(vec![Process::new(*role, pid)]), WATCH).await?;
        let memory = memory(pid)?;
        let share = times(number(memory.resident / 1024) / 1024.0, number(GOAL.0));
        table.row(vec![
            (*role).to_owned(),
            starts.get(starts.len() / 2).copied().unwrap_or_default().to_string(),
            megabytes(memory.resident),
            share,
            megabytes(memory.proportional),
            megabytes(memory.private),
            format!("{:.1}", used.of(role).as_secs_f64() * 1e3 / used.time.as_secs_f64()),
            std::fs::read_dir(format!("/proc/{pid}/task"))?.count().to_string(),
        ]);
    }
    Ok(table)
}
