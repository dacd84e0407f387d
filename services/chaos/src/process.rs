//! Child processes: their environment, their logs, and the signals they get.

use anyhow::{Context, Result, ensure};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    net::TcpListener,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// What a process is told. Of our own environment only the search paths reach it.
pub type Env = BTreeMap<String, String>;

/// Starts a process that dies with this one. Its output is appended to `log`.
///
/// # Errors
/// When the log cannot be opened or the program cannot be started.
pub fn spawn(log: &Path, program: &Path, arguments: &[&str], env: &Env) -> Result<Child> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments);
    prepare(&mut command, log, env)?;
    command.kill_on_drop(true).spawn().with_context(|| format!("start {}", program.display()))
}

/// Runs a process to its end.
///
/// # Errors
/// When it cannot be started or fails; the end of its log is in the error.
pub async fn finish(log: &Path, program: &Path, arguments: &[&str], env: &Env) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments);
    prepare(&mut command, log, env)?;
    // a run that is interrupted leaves no script behind that starts something
    let status = command.kill_on_drop(true).status().await.with_context(|| format!("start {}", program.display()))?;
    ensure!(status.success(), "{} {arguments:?}: {status}\n{}", program.display(), tail(log));
    Ok(())
}

fn prepare(command: &mut Command, log: &Path, env: &Env) -> Result<()> {
    let out = OpenOptions::new().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
    command.env_clear().stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
    for name in ["PATH", "HOME", "LD_LIBRARY_PATH", "MERCATO_TOOLS", "PARTS_USER"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("RUST_BACKTRACE", "1").envs(env);
    Ok(())
}

/// Sends a signal, such as `KILL`, `STOP`, `CONT` or `TERM`.
///
/// # Errors
/// When there is no such process.
pub async fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status().await.context("run kill")?;
    ensure!(status.success(), "kill -{name} {pid}: {status}");
    Ok(())
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map_or_else(|e| e.to_string(), |bytes| String::from_utf8_lossy(&bytes).into_owned());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Loopback ports for one run, below those the kernel gives to clients. The first is held as long as this lives, so that another run takes
/// other ports even while a process of this one is dead and its port free.
#[derive(Debug)]
pub struct Ports {
    _claim: TcpListener,
    rest: std::ops::Range<u16>,
}

const BLOCK: u16 = 80;

impl Ports {
    /// Takes a block of which every port is free.
    pub fn claim() -> Self {
        loop {
            let first = 10_000 + rand::random::<u16>() % 175 * BLOCK;
            let Ok(claim) = TcpListener::bind(("127.0.0.1", first)) else { continue };
            let rest = first + 2..first + BLOCK;
            if rest.clone().all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
                return Self { _claim: claim, rest };
            }
        }
    }

    /// A port of the block; the one after it is not given out.
    pub fn pair(&mut self) -> u16 {
        let port = self.rest.next().expect("a block has ports for every process");
        self.rest.next();
        port
    }
}

/// Waits until the address answers, with 200 unless any answer will do.
///
/// # Errors
/// When it does not within `limit`; the end of the log is in the error.
pub async fn answers(url: &str, any: bool, limit: Duration, log: &Path) -> Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build()?;
    let end = Instant::now() + limit;
    loop {
        let seen = match client.get(url).send().await {
            Ok(answer) if any || answer.status() == 200 => return Ok(()),
            Ok(answer) => answer.status().to_string(),
            Err(error) => error.to_string(),
        };
        ensure!(Instant::now() < end, "{url} is not ready in {limit:?} ({seen}); the end of {}:\n{}", log.display(), tail(log));
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
