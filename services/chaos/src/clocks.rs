//! The wall clocks of the shop's processes, moved by libfaketime: durations and timeouts go on as ever, only the time of day is another.
//! Each process looks at its file about once a second.

use crate::{process::Env, programs::Programs};
use anyhow::{Context, Result};
use rand::{RngExt as _, rngs::StdRng};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::task::AbortHandle;

/// How often a clock that runs fast, slow or wild is set.
const STEP: Duration = Duration::from_secs(1);
/// How wrong the clock of a service may be, in seconds.
pub const AN_HOUR: i64 = 3600;
/// How wrong the clock of PostgreSQL may be: what it says is due in an hour is done in an hour, and a run does not wait that long.
pub const HALF_A_MINUTE: i64 = 30;

/// What a process is told so that its clock can be moved; nothing when the run does not move clocks.
pub(crate) fn environment(programs: &Programs, state: &Path, service: &str) -> Env {
    let Some(library) = &programs.faketime else { return Env::new() };
    let told = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file(state, service).display().to_string()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("FAKETIME_CACHE_DURATION", STEP.as_secs().to_string()),
        // file times stay the kernel's
        ("NO_FAKE_STAT", "1".into()),
    ];
    told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What the script that starts PostgreSQL is told so that its clock can be moved.
pub(crate) fn of_postgres(programs: &Programs, state: &Path) -> Env {
    let Some(library) = &programs.faketime else { return Env::new() };
    let told = [("MERCATO_FAKETIME", library), ("MERCATO_POSTGRES_CLOCK", &file(state, "postgres"))];
    told.into_iter().map(|(name, path)| (name.to_owned(), path.display().to_string())).collect()
}

/// Removes what the library leaves in shared memory for a process that was killed.
pub(crate) fn forget(pid: u32) {
    for left in [format!("/dev/shm/faketime_shm_{pid}"), format!("/dev/shm/sem.faketime_sem_{pid}")] {
        match std::fs::remove_file(&left) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => eprintln!("{left} stays: {error}"),
            _ => {}
        }
    }
}

fn file(state: &Path, service: &str) -> PathBuf {
    state.join(format!("{service}.clock"))
}

/// Sets a process's clock to be wrong by this many seconds.
pub(crate) fn set(state: &Path, service: &str, seconds: i64) -> Result<()> {
    let (to, new) = (file(state, service), file(state, service).with_extension("new"));
    std::fs::write(&new, format!("{seconds:+}\n")).with_context(|| format!("write {}", new.display()))?;
    std::fs::rename(&new, &to).with_context(|| format!("write {}", to.display()))
}

/// How a clock is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// By this many seconds all the time.
    By(i64),
    /// By this many more every second.
    Drifts(i64),
    /// By another time every second, at most by this many seconds.
    Wild(i64),
}

impl Wrong {
    /// As the seed decides: what no token may notice, what tokens, credentials and holds notice, and the most.
    pub fn choose(rng: &mut StdRng, most: i64) -> Self {
        let sign = if rng.random_bool(0.5) { 1 } else { -1 };
        match rng.random_range(0..6) {
            0 => Self::By(3 * sign),
            1 | 2 => Self::By(most.min(90) * sign),
            3 => Self::By(most * sign),
            4 => Self::Drifts(sign),
            _ => Self::Wild(most.min(120)),
        }
    }

    /// In words.
    pub fn words(self) -> String {
        match self {
            Self::By(seconds) => format!("wrong by {seconds:+} s"),
            Self::Drifts(seconds) => format!("drifting by {seconds:+} s a second"),
            Self::Wild(most) => format!("jumping by up to {most} s"),
        }
    }
}

/// Clocks that are wrong until they are set right.
#[derive(Debug)]
pub struct Skewed {
    state: PathBuf,
    services: Vec<&'static str>,
    walker: AbortHandle,
}

impl Skewed {
    /// Makes the clocks of these processes wrong.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn begin(state: &Path, services: Vec<&'static str>, wrong: Wrong) -> Result<Self> {
        let first = if let Wrong::By(seconds) = wrong { seconds } else { 0 };
        services.iter().try_for_each(|service| set(state, service, first))?;
        let (folder, walked) = (state.to_owned(), services.clone());
        let walk = async move {
            let mut by = 0;
            loop {
                tokio::time::sleep(STEP).await;
                by = match wrong {
                    Wrong::By(_) => return,
                    Wrong::Drifts(seconds) => by + seconds,
                    Wrong::Wild(most) => rand::random_range(-most..=most),
                };
                if let Some(error) = walked.iter().find_map(|service| set(&folder, service, by).err()) {
                    eprintln!("a clock could not be moved: {error:#}");
                }
            }
        };
        Ok(Self { state: state.to_owned(), services, walker: tokio::spawn(walk).abort_handle() })
    }

    /// Sets the clocks right, in one jump.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn end(self) -> Result<()> {
        self.walker.abort();
        self.services.iter().try_for_each(|service| set(&self.state, service, 0))
    }
}

impl Drop for Skewed {
    fn drop(&mut self) {
        self.walker.abort();
    }
}
