//! Processes that die with the test binary, each with a log file of its own.

use anyhow::{Context, Result, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

/// What a process is told; nothing else of our own environment reaches it.
pub type Env = BTreeMap<String, String>;

/// Starts a process. The kernel kills it when the calling *thread* ends, so that must be one that lives as long as the test binary.
pub fn spawn(log: &Path, program: &Path, arguments: &[&str], env: &Env) -> Result<u32> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    prepare(&mut command, log, arguments, env)?;
    let child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    Ok(child.id())
}

/// Runs a process to its end; its log is the error when it fails.
pub fn finish(log: &Path, program: &Path, arguments: &[&str], env: &Env) -> Result<()> {
    let mut command = Command::new(program);
    prepare(&mut command, log, arguments, env)?;
    let status = command.status().with_context(|| format!("start {}", program.display()))?;
    ensure!(status.success(), "{} {arguments:?}: {status}\n{}", program.display(), tail(log));
    Ok(())
}

fn prepare(command: &mut Command, log: &Path, arguments: &[&str], env: &Env) -> Result<()> {
    let out = File::create(log).with_context(|| format!("create {}", log.display()))?;
    command.args(arguments).env_clear().stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
    for name in ["PATH", "HOME", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("RUST_BACKTRACE", "1").envs(env);
    Ok(())
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_else(|e| e.to_string());
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// The program at the path a variable names.
pub fn program(variable: &str, otherwise: Option<PathBuf>) -> Result<PathBuf> {
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => otherwise.with_context(|| format!("{variable} must be set: run the suite with `make test`"))?,
    };
    ensure!(path.exists(), "{} is not there ({variable})", path.display());
    Ok(path)
}

/// Loopback ports nobody listens on, below those the kernel gives to clients. None is given twice: who got one may not listen there yet.
pub fn free_ports(many: usize) -> Vec<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut free = Vec::new();
    while free.len() < many {
        let port = 10_000 + rand::random::<u16>() % 14_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && given.insert(port) {
            free.push(port);
        }
    }
    free
}
