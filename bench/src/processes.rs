//! What the shop's processes cost: CPU and memory from /proc, children included.

use anyhow::Context;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The row of the load generator itself.
pub const GENERATOR: &str = "load generator";
/// Names in the order people expect them; any other follows.
const ORDER: &[&str] =
    &["mercato", "catalog", "inventory", "ordering", "payment", "customer", "gateway", "envoy", "postgres", "kafka", "redis", "provider"];
/// CPU of all within a second that counts as rest.
const QUIET: Duration = Duration::from_millis(300);
/// How long rest is waited for.
const PATIENCE_SECONDS: u32 = 30;
/// Ticks a second of the times in /proc/PID/stat: USER_HZ, 100 in every Linux ABI.
const TICK: Duration = Duration::from_millis(10);

/// One process, with its children when it has any.
#[derive(Debug, Clone)]
pub struct Process {
    /// What it is called.
    pub name: String,
    /// Its process id.
    pub pid: u32,
    /// Whether what it starts counts as its own.
    pub family: bool,
}

impl Process {
    /// A process that is measured with all it starts.
    pub fn new(name: impl Into<String>, pid: u32) -> Self {
        Self { name: name.into(), pid, family: true }
    }
}

/// The processes under measurement.
#[derive(Debug, Clone)]
pub struct Processes(Vec<Process>);

impl Processes {
    /// Those whose ids are in a folder as NAME.pid and that still run, and this one.
    pub fn find(run_dir: &Path) -> anyhow::Result<Self> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(run_dir).with_context(|| format!("cannot list {}", run_dir.display()))? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "pid") {
                continue;
            }
            let (Some(name), Ok(text)) = (path.file_stem().and_then(|n| n.to_str()), std::fs::read_to_string(&path)) else { continue };
            let Ok(pid) = text.trim().parse() else { continue };
            if works_for(pid, name) {
                found.push(Process::new(name, pid));
            }
        }
        anyhow::ensure!(!found.is_empty(), "no process of the shop runs: make up");
        found.sort_by_key(|p| (ORDER.iter().position(|n| *n == p.name).unwrap_or(ORDER.len()), p.name.clone()));
        found.push(Process { name: GENERATOR.into(), pid: std::process::id(), family: false });
        Ok(Self(found))
    }

    /// These alone.
    pub fn of(processes: Vec<Process>) -> Self {
        Self(processes)
    }

    /// Adds one.
    pub fn push(&mut self, process: Process) {
        self.0.push(process);
    }

    /// All of them.
    pub fn list(&self) -> &[Process] {
        &self.0
    }

    /// Starts to measure.
    pub fn start(&self) -> anyhow::Result<Meter<'_>> {
        Ok(Meter { processes: self, began: Instant::now(), before: self.cpu()?, busy: busy()? })
    }

    /// CPU of each since it was started.
    fn cpu(&self) -> anyhow::Result<BTreeMap<String, Duration>> {
        let all = table()?;
        self.0
            .iter()
            .map(|p| {
                let family = if p.family { descendants(&all, p.pid) } else { vec![p.pid] };
                let own = all.get(&p.pid).with_context(|| format!("{} ended while it was measured", p.name))?;
                let ticks = if p.family { family.iter().filter_map(|pid| all.get(pid)).map(|s| s.own + s.reaped).sum() } else { own.own };
                Ok((p.name.clone(), TICK.saturating_mul(ticks)))
            })
            .collect()
    }
}

/// A measurement under way.
pub struct Meter<'p> {
    processes: &'p Processes,
    began: Instant,
    before: BTreeMap<String, Duration>,
    busy: Duration,
}

impl Meter<'_> {
    /// What was used since the start.
    pub fn stop(&self) -> anyhow::Result<Cost> {
        let after = self.processes.cpu()?;
        let used = after.into_iter().map(|(name, cpu)| {
            let before = self.before.get(&name).copied().unwrap_or_default();
            (name, cpu.saturating_sub(before))
        });
        let cpu: BTreeMap<String, Duration> = used.collect();
        let others = busy()?.saturating_sub(self.busy).saturating_sub(cpu.values().sum());
        Ok(Cost { cpu, others, time: self.began.elapsed() })
    }
}

/// CPU used by each process within a time.
#[derive(Debug, Clone, Default)]
pub struct Cost {
    /// By name.
    pub cpu: BTreeMap<String, Duration>,
    /// By everybody else on the machine, and what its host took away: while it is large, rates and latencies say little.
    pub others: Duration,
    /// How long it was measured.
    pub time: Duration,
}

impl Cost {
    /// Cores that others kept busy, as text.
    pub fn others(&self) -> String {
        if self.time.is_zero() { "-".into() } else { format!("{:.2}", self.others.as_secs_f64() / self.time.as_secs_f64()) }
    }

    /// CPU of one process.
    pub fn of(&self, name: &str) -> Duration {
        self.cpu.get(name).copied().unwrap_or_default()
    }

    /// CPU of one process without what it would have used for nothing.
    pub fn less(&self, idle: &Cost, name: &str) -> Duration {
        if idle.time.is_zero() {
            return self.of(name);
        }
        self.of(name).saturating_sub(idle.of(name).mul_f64(self.time.as_secs_f64() / idle.time.as_secs_f64()))
    }
}

/// Measures what everybody uses while nothing is asked of them.
pub async fn idle(processes: &Processes, time: Duration) -> anyhow::Result<Cost> {
    let meter = processes.start()?;
    tokio::time::sleep(time).await;
    meter.stop()
}

/// Waits until nobody has much to do any more, such as what a fresh seed or the load before left behind.
pub async fn quiet(processes: &Processes) -> anyhow::Result<()> {
    for _ in 0..PATIENCE_SECONDS {
        let cost = idle(processes, Duration::from_secs(1)).await?;
        if cost.cpu.values().sum::<Duration>() < QUIET {
            return Ok(());
        }
    }
    eprintln!("the shop does not come to rest within {PATIENCE_SECONDS} s: what it does counts as its idling");
    Ok(())
}

/// Memory of a process and its children in bytes: the proportional share where the kernel tells, else what is resident.
pub fn memory(pid: u32) -> anyhow::Result<Memory> {
    let all = table()?;
    let mut sum = Memory::default();
    for pid in descendants(&all, pid) {
        let read = |file: &str, key: &str| kilobytes(&PathBuf::from(format!("/proc/{pid}/{file}")), key);
        let resident = read("status", "VmRSS:").unwrap_or(0) * 1024;
        sum.resident += resident;
        sum.private += ["Private_Clean:", "Private_Dirty:"].iter().filter_map(|key| read("smaps_rollup", key)).sum::<u64>() * 1024;
        sum.proportional += read("smaps_rollup", "Pss:").map_or(resident, |kb| kb * 1024);
    }
    Ok(sum)
}

/// Memory in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Resident; pages shared between processes count in each.
    pub resident: u64,
    /// Resident, with a shared page divided among those who share it.
    pub proportional: u64,
    /// Resident and shared with nobody; zero where the kernel does not tell.
    pub private: u64,
}

/// How long ago a process was started.
pub fn age(pid: u32) -> anyhow::Result<Duration> {
    let uptime = std::fs::read_to_string("/proc/uptime")?;
    let up: f64 = uptime.split(' ').next().unwrap_or_default().parse().context("/proc/uptime is not as expected")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = after_name(&stat).split(' ').collect();
    let started: u32 = fields.get(19).and_then(|f| f.parse().ok()).context("/proc/PID/stat is not as expected")?;
    Ok(Duration::from_secs_f64(up).saturating_sub(TICK.saturating_mul(started)))
}

/// The process id in NAME.pid, when that process still works for NAME.
pub fn pid(run_dir: &Path, name: &str) -> Option<u32> {
    let pid = std::fs::read_to_string(run_dir.join(format!("{name}.pid"))).ok()?.trim().parse().ok()?;
    works_for(pid, name).then_some(pid)
}

/// What all cores together have worked since the machine was started.
fn busy() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let fields: Vec<u64> = text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|n| fields.get(*n)).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// Each process of the stack works in a folder of its own name; an id that was given out again does not.
fn works_for(pid: u32, name: &str) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.iter().any(|part| part == name))
}

struct Stat {
    parent: u32,
    own: u32,
    reaped: u32,
}

fn table() -> anyhow::Result<HashMap<u32, Stat>> {
    let pids = std::fs::read_dir("/proc").context("/proc is needed")?.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    // a process may end between the list and the reading
    Ok(pids.filter_map(|pid: u32| Some((pid, stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect())
}

fn stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = after_name(text).split(' ').collect();
    let field = |n: usize| fields.get(n).and_then(|f| f.parse::<u32>().ok());
    Some(Stat { parent: field(1)?, own: field(11)? + field(12)?, reaped: field(13)? + field(14)? })
}

/// The fields after the name, which may itself hold blanks and brackets; the first is the state.
fn after_name(stat: &str) -> &str {
    stat.rsplit_once(") ").map_or("", |(_, rest)| rest)
}

fn descendants(all: &HashMap<u32, Stat>, root: u32) -> Vec<u32> {
    let mut family = vec![root];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(all.iter().filter(|(_, s)| s.parent == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

fn kilobytes(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|l| l.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let line = "42 (a) b (c)) S 7 1 1 0 -1 4194560 5 6 0 9 170 1000 64 15 10 -10 14 0 25 54 50 1";
        let stat = stat(line).expect("a line as the kernel writes it");
        assert_eq!((stat.parent, stat.own, stat.reaped), (7, 1170, 79));
    }

    #[test]
    fn idle_use_is_subtracted_by_time() {
        let cost = |ms, s| Cost {
            cpu: BTreeMap::from([("kafka".to_owned(), Duration::from_millis(ms))]),
            time: Duration::from_secs(s),
            ..Cost::default()
        };
        assert_eq!(cost(1000, 10).less(&cost(30, 3), "kafka"), Duration::from_millis(900));
    }
}
