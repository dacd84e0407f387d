//! What the process uses, read from Linux at each scrape. Elsewhere only what the runtime knows is told.

use super::{About, Kind};
use std::{fmt::Write as _, fs, sync::LazyLock};

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

/// Appends what is known now.
pub(super) fn render(text: &mut String) {
    let version =
        format!("version=\"{}\",revision=\"{}\"", env!("CARGO_PKG_VERSION"), option_env!("MERCATO_REVISION").unwrap_or("unknown"));
    line(text, &BUILD, &version, Some(1.0));
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let metrics = runtime.metrics();
        let workers = metrics.num_workers();
        line(text, &WORKERS, "", Some(workers as f64));
        line(text, &TASKS, "", Some(metrics.num_alive_tasks() as f64));
        line(text, &WAITING, "", Some(metrics.global_queue_depth() as f64));
        line(text, &BUSY, "", Some((0..workers).map(|worker| metrics.worker_total_busy_duration(worker).as_secs_f64()).sum()));
    }
    let stat = Stat::read();
    line(text, &CPU, "", stat.as_ref().map(|stat| stat.cpu));
    line(text, &THREADS, "", stat.as_ref().map(|stat| stat.threads));
    line(text, &STARTED, "", stat.and_then(|stat| Some(*BOOTED.as_ref()? + stat.started)));
    line(text, &MEMORY, "", resident());
    line(text, &FDS, "", fs::read_dir("/proc/self/fd").ok().map(|all| all.count() as f64));
    line(text, &FDS_MOST, "", limit("Max open files"));
    line(text, &MEMORY_MOST, "", *ALLOWED);
}

fn line(text: &mut String, about: &About, labels: &str, value: Option<f64>) {
    let Some(value) = value else { return };
    let (name, kind, help) = (about.name, about.kind.name(), about.help);
    let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{labels} {value}\n\n").expect("text can be written to");
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

/// The smallest limit from our control group up.
static ALLOWED: LazyLock<Option<f64>> = LazyLock::new(|| {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?.to_owned();
    let limit = |group: &std::path::Path| fs::read_to_string(group.join("memory.max")).ok()?.trim().parse::<f64>().ok();
    let root = std::path::Path::new("/sys/fs/cgroup");
    root.join(own.trim_start_matches('/')).ancestors().take_while(|group| group.starts_with(root)).filter_map(limit).reduce(f64::min)
});

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
}
