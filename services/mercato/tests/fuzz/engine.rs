//! Gives each target its share of inputs on all cores, watches time and memory, and makes a failing input small.

use super::mutate::Rng;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How inputs are made from a corpus.
pub type Mutator = fn(&mut Rng, &[Vec<u8>]) -> Vec<u8>;

/// What is done with an input.
pub type Run = Box<dyn Fn(&[u8]) + Send + Sync>;

/// Something that reads bytes of strangers.
pub struct Target {
    /// Its name.
    pub name: String,
    /// Good inputs.
    pub corpus: Vec<Vec<u8>>,
    /// Makes bad ones of them.
    pub mutate: Mutator,
    /// Panics when the input did what none may do.
    pub run: Run,
    /// How many inputs it gets, relative to the others.
    pub share: usize,
}

/// What went wrong.
#[derive(Debug)]
pub struct Failure {
    /// Whose input it was.
    pub target: String,
    /// What happened.
    pub what: String,
    /// The input, as small as it could be made.
    pub input: Vec<u8>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {}", self.target, self.what)?;
        write!(f, "again with: make fuzz INPUT='{}:{}'", self.target, hex(&self.input))
    }
}

/// No input may take longer, even without optimisation.
const SLOW: Duration = Duration::from_secs(1);
/// Inputs a worker takes at a time.
const CHUNK: usize = 500;
/// How much the process may grow while it reads what strangers send, in KiB.
const GROWTH: u64 = 512 * 1024;

/// Runs one input.
///
/// # Errors
/// What it did that it must not.
pub fn once(target: &Target, input: &[u8]) -> Result<(), String> {
    let began = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if let Err(panic) = result {
        let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        return Err(format!("panicked: {}", text.unwrap_or_default()));
    }
    // the machine may have been busy with something else: only what is slow each time is slow
    if began.elapsed() > SLOW {
        let again = (0..3).map(|_| {
            let began = Instant::now();
            (target.run)(input);
            began.elapsed()
        });
        let best = again.min().unwrap_or_default();
        if best > SLOW {
            return Err(format!("took {best:?}"));
        }
    }
    Ok(())
}

/// Plays `inputs` inputs of this seed, and stops at the first failure.
///
/// # Errors
/// The failure.
pub fn play(targets: &[Target], seed: u64, inputs: usize) -> Result<usize, Box<Failure>> {
    let chunks = chunks(targets, inputs);
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let before = memory();
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            std::thread::Builder::new()
                .name("fuzz".into())
                .stack_size(2 * 1024 * 1024)
                .spawn_scoped(scope, || {
                    while let Some(&(target, from, many)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(failure) = chunk(&targets[target], seed, from, many, before) {
                            next.store(chunks.len(), Ordering::Relaxed);
                            failed.lock().expect("no worker panics").get_or_insert(failure);
                        }
                    }
                })
                .expect("a thread");
        }
    });
    match failed.into_inner().expect("no worker panics") {
        Some(failure) => Err(failure),
        None => Ok(chunks.iter().map(|(_, _, many)| many).sum()),
    }
}

/// Which target gets which inputs: at least as many as were asked for.
fn chunks(targets: &[Target], inputs: usize) -> Vec<(usize, usize, usize)> {
    let total: usize = targets.iter().map(|target| target.share).sum();
    let of = |place: usize| (inputs * targets[place].share).div_ceil(total);
    (0..targets.len()).flat_map(|place| (0..of(place)).step_by(CHUNK).map(move |from| (place, from, CHUNK.min(of(place) - from)))).collect()
}

fn chunk(target: &Target, seed: u64, from: usize, many: usize, before: u64) -> Result<(), Box<Failure>> {
    let own = target.name.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    for number in from..from + many {
        let input = (target.mutate)(&mut Rng::new(own ^ (number as u64) << 20), &target.corpus);
        if let Err(what) = once(target, &input) {
            let what = format!("seed {seed}, input {number}: {what}");
            return Err(Box::new(Failure { target: target.name.clone(), what, input: smaller(target, input) }));
        }
    }
    let grown = memory().saturating_sub(before);
    if grown > GROWTH {
        let what = format!("seed {seed}, inputs {from} to {}: the process grew by {grown} KiB", from + many);
        return Err(Box::new(Failure { target: target.name.clone(), what, input: Vec::new() }));
    }
    Ok(())
}

/// Leaves parts of a failing input out as long as it fails, first large ones, then single bytes.
fn smaller(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let began = Instant::now();
    let mut part = input.len() / 2;
    while part > 0 && began.elapsed() < Duration::from_secs(20) {
        let mut at = 0;
        while at < input.len() && began.elapsed() < Duration::from_secs(20) {
            let mut without = input.clone();
            without.drain(at..(at + part).min(input.len()));
            if once(target, &without).is_err() {
                input = without;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    input
}

/// The most memory this process ever had resident, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// And back.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
