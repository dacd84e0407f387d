//! What the process uses, read from Linux at each scrape. Elsewhere only what the runtime knows is told.

use super::{About, Kind, expose::family};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet},
    metrics::gauge::ConstGauge,
};
use std::{fmt, fs, path::Path, sync::LazyLock};

/// Ticks of the kernel in a second, as user space sees them; the same on every architecture we run on.
const TICKS: f64 = 100.0;

const CPU: About = counter("process_cpu_seconds_total", "Processor time used, in user and system mode.");
const MEMORY: About = gauge("process_resident_memory_bytes", "Memory in use.");
const FDS: About = gauge("process_open_fds", "Open file descriptors.");
const FDS_MOST: About = gauge("process_max_fds", "File descriptors that may be open.");
const THREADS: About = gauge("process_threads", "Threads of the process.");
const STARTED: About = gauge("process_start_time_seconds", "When the process started, since 1970.");
const MEMORY_MOST: About = gauge("mercato_process_memory_limit_bytes", "Memory the control group allows; absent without a limit.");
const WORKERS: About = gauge("mercato_runtime_workers", "Threads that run tasks.");
const TASKS: About = gauge("mercato_runtime_tasks", "Tasks alive.");
const WAITING: About = gauge("mercato_runtime_waiting_tasks", "Tasks in the global queue that no thread has taken yet.");
const BUSY: About = counter("mercato_runtime_busy_seconds_total", "Time the runtime's threads were busy.");
const BUILD: About = About {
    name: "mercato_build_info",
    kind: Kind::Gauge,
    labels: &["version", "revision"],
    help: "Always 1; the labels say what runs. `revision` is MERCATO_REVISION at build time.",
};

/// The definitions.
pub static DEFINED: &[&About] =
    &[&CPU, &MEMORY, &FDS, &FDS_MOST, &THREADS, &STARTED, &MEMORY_MOST, &WORKERS, &TASKS, &WAITING, &BUSY, &BUILD];

const fn counter(name: &'static str, help: &'static str) -> About {
    About { name, kind: Kind::Counter, labels: &[], help }
}

const fn gauge(name: &'static str, help: &'static str) -> About {
    About { name, kind: Kind::Gauge, labels: &[], help }
}

/// Tells what is known now.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("revision", option_env!("MERCATO_REVISION").unwrap_or("unknown"))];
        let mut build = to.encode_descriptor(BUILD.name, BUILD.help, None, BUILD.kind.into())?;
        ConstGauge::new(1.0).encode(build.encode_family(&labels)?)?;
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let metrics = runtime.metrics();
            let workers = metrics.num_workers();
            tell(&mut to, &WORKERS, Some(workers as f64))?;
            tell(&mut to, &TASKS, Some(metrics.num_alive_tasks() as f64))?;
            tell(&mut to, &WAITING, Some(metrics.global_queue_depth() as f64))?;
            tell(&mut to, &BUSY, Some((0..workers).map(|worker| metrics.worker_total_busy_duration(worker).as_secs_f64()).sum()))?;
        }
        let stat = Stat::read();
        tell(&mut to, &CPU, stat.as_ref().map(|stat| stat.cpu))?;
        tell(&mut to, &THREADS, stat.as_ref().map(|stat| stat.threads))?;
        tell(&mut to, &STARTED, stat.and_then(|stat| Some(*BOOTED.as_ref()? + stat.started)))?;
        tell(&mut to, &MEMORY, resident())?;
        tell(&mut to, &FDS, fs::read_dir("/proc/self/fd").ok().map(|all| all.count() as f64))?;
        tell(&mut to, &FDS_MOST, limit("Max open files"))?;
        tell(&mut to, &MEMORY_MOST, *ALLOWED)
    }
}

fn tell(to: &mut DescriptorEncoder, about: &About, value: Option<f64>) -> fmt::Result {
    let Some(value) = value else { return Ok(()) };
    let mut metric = to.encode_descriptor(family(about), about.help, None, about.kind.into())?;
    match about.kind {
        Kind::Counter => metric.encode_counter::<NoLabelSet, f64, u64>(&value, None),
        Kind::Gauge | Kind::Histogram => metric.encode_gauge(&value),
    }
}

/// The interesting part of `/proc/self/stat`, in seconds.
struct Stat {
    cpu: f64,
    threads: f64,
    /// Since the machine started.
    started: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// The fields are counted from the one behind the program's name, which may hold anything: the third.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |nth: usize| fields.get(nth - 3)?.parse::<f64>().ok();
        Some(Self { cpu: (field(14)? + field(15)?) / TICKS, threads: field(20)?, started: field(22)? / TICKS })
    }
}

static BOOTED: LazyLock<Option<f64>> = LazyLock::new(|| {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
});

/// The smallest limit from our control group up, in either version of control groups.
static ALLOWED: LazyLock<Option<f64>> = LazyLock::new(|| {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limit = |group: &Path, file: &str| fs::read_to_string(group.join(file)).ok()?.trim().parse().ok().filter(|most| *most < UNLIMITED);
    memory_groups(&own)
        .filter_map(|(root, group, file)| {
            // inside a container the path may be the machine's, and the root our own group
            let path = root.join(group.trim_start_matches('/'));
            path.ancestors().take_while(|group| group.starts_with(root)).filter_map(|group| limit(group, file)).reduce(f64::min)
        })
        .reduce(f64::min)
});

/// Version 1 has a number for "no limit": the largest that a page counter holds, a little below 2^63.
const UNLIMITED: f64 = (1_u64 << 62) as f64;

/// Where our control groups are mounted, which they are, and the file that has the limit.
fn memory_groups(own: &str) -> impl Iterator<Item = (&'static Path, &str, &'static str)> {
    own.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        match controllers {
            "" => Some((Path::new("/sys/fs/cgroup"), group, "memory.max")),
            some if some.split(',').any(|one| one == "memory") => {
                Some((Path::new("/sys/fs/cgroup/memory"), group, "memory.limit_in_bytes"))
            }
            _ => None,
        }
    })
}

fn resident() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib: f64 = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024.0)
}

fn limit(name: &str) -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let text = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 12 0 4200 1 1";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.cpu, stat.threads, stat.started), (2.0, 12.0, 42.0));
    }

    #[test]
    fn both_versions_of_control_groups_are_found() {
        let own = "13:memory:/shop/a\n12:cpu,cpuacct:/shop/a\n0::/b\n";
        let found: Vec<_> = memory_groups(own).map(|(_, group, file)| (group, file)).collect();
        assert_eq!(found, [("/shop/a", "memory.limit_in_bytes"), ("/b", "memory.max")]);
    }
}
