//! What goes wrong, when and for how long; all of it decided by the seed.

use crate::{
    clocks::{self, Skewed, Wrong},
    history::History,
    proxy::Link,
    world::{Target, World},
};
use anyhow::{Context, Result};
use clap::ValueEnum;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A process must be gone this long after SIGTERM.
pub const EXIT: Duration = Duration::from_secs(60);

/// Seconds without a fault at the beginning of a run.
const CALM: f64 = 10.0;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Nemesis {
    /// Nothing.
    None,
    /// kill -9 of a service process.
    KillService,
    /// A service process is frozen and goes on later.
    StopService,
    /// A service process is asked to end under load, and started again.
    TermService,
    /// PostgreSQL crashes.
    KillPostgres,
    /// The broker crashes.
    KillKafka,
    /// The broker is frozen.
    StopKafka,
    /// Redis crashes and comes back empty.
    KillRedis,
    /// Redis is frozen.
    StopRedis,
    /// The payment provider crashes.
    KillProvider,
    /// The edge crashes.
    KillEnvoy,
    /// Connections to PostgreSQL and to the provider fall silent, are cut one way, are reset, or break in the middle.
    HalfOpen,
    /// Everything to and from PostgreSQL and the provider is late.
    SlowLink,
    /// The provider answers with errors, with garbage, late, or not at all.
    ProviderFaults,
    /// The wall clock of a service process, or of all, is wrong, drifts or jumps.
    ShiftClock,
    /// The wall clock of PostgreSQL is wrong, drifts or jumps; it is the one that leases, timers and holds go by.
    ShiftDatabaseClock,
    /// Two of them at once.
    Mix,
}

impl Nemesis {
    /// Every kind but none and the mix.
    pub const SINGLE: [Self; 15] = [
        Self::KillService,
        Self::StopService,
        Self::TermService,
        Self::KillPostgres,
        Self::KillKafka,
        Self::StopKafka,
        Self::KillRedis,
        Self::StopRedis,
        Self::KillProvider,
        Self::KillEnvoy,
        Self::HalfOpen,
        Self::SlowLink,
        Self::ProviderFaults,
        Self::ShiftClock,
        Self::ShiftDatabaseClock,
    ];

    /// Whether it moves clocks.
    pub fn moves_clocks(self) -> bool {
        matches!(self, Self::ShiftClock | Self::ShiftDatabaseClock | Self::Mix)
    }

    /// What it strikes; two faults at once strike different things.
    fn victim(self) -> u8 {
        match self {
            Self::None | Self::Mix => 0,
            Self::KillService | Self::StopService | Self::TermService | Self::ShiftClock => 1,
            Self::KillPostgres | Self::HalfOpen | Self::SlowLink | Self::ShiftDatabaseClock => 2,
            Self::KillKafka | Self::StopKafka => 3,
            Self::KillRedis | Self::StopRedis => 4,
            Self::KillProvider | Self::ProviderFaults => 5,
            Self::KillEnvoy => 6,
        }
    }
}

/// One fault, as it was.
#[derive(Debug, Clone)]
pub struct Struck {
    /// In words.
    pub what: String,
    /// When it began, since the beginning of the run.
    pub began: Duration,
    /// When healing began.
    pub ended: Duration,
    /// When everything that was hurt said it was ready.
    pub ready: Duration,
}

/// How to heal a fault.
enum Wound {
    Restart(Target),
    GoOn(Target),
    Starts(Target),
    Links,
    Behaviour,
    Clocks(Skewed),
    Healed,
}

/// The times of a schedule, shrunk for short runs.
#[derive(Debug, Clone, Copy)]
pub struct Rhythm(f64);

impl Rhythm {
    /// For a run of this length: the full times from two minutes on.
    pub fn of(run: Duration) -> Self {
        Self((run.as_secs_f64() / 120.0).clamp(0.2, 1.0))
    }

    fn seconds(self, rng: &mut StdRng, from: f64, to: f64) -> Duration {
        Duration::from_secs_f64(self.0 * if from < to { rng.random_range(from..to) } else { from })
    }
}

/// Attacks the shop for this long, leaves it healed, and tells what it did. A fault that cannot be brought about or healed is an error.
///
/// # Errors
/// When a process cannot be hurt, started, or does not become ready.
pub async fn attack(world: &World, history: &History, nemesis: Nemesis, seed: u64, time: Duration) -> Result<Vec<Struck>> {
    let (_never, over) = watch::channel(false);
    let calm = Rhythm::of(time).0 * CALM;
    tokio::time::sleep(Duration::from_secs_f64(calm)).await;
    schedule(world, history, nemesis, seed, Rhythm::of(time), Instant::now() + time.mul_f64(1.0 - calm / time.as_secs_f64()), over).await
}

/// Attacks the shop in the rhythm of a run of a minute until `over` says so, at least once.
///
/// # Errors
/// As [`attack`].
pub async fn attack_until(
    world: &World,
    history: &History,
    nemesis: Nemesis,
    seed: u64,
    over: watch::Receiver<bool>,
) -> Result<Vec<Struck>> {
    let ages = Instant::now() + Duration::from_secs(86_400);
    tokio::time::sleep(Duration::from_secs(1)).await;
    schedule(world, history, nemesis, seed, Rhythm::of(Duration::from_secs(60)), ages, over).await
}

async fn schedule(
    world: &World,
    history: &History,
    nemesis: Nemesis,
    seed: u64,
    rhythm: Rhythm,
    end: Instant,
    mut over: watch::Receiver<bool>,
) -> Result<Vec<Struck>> {
    let mut struck = Vec::new();
    if nemesis == Nemesis::None {
        return Ok(struck);
    }
    let mut rng = StdRng::seed_from_u64(seed ^ 0x006e_656d_6573_6973);
    loop {
        let (hurt, heal) = (rhythm.seconds(&mut rng, 2.0, 20.0), rhythm.seconds(&mut rng, 5.0, 15.0));
        // the first fault always happens
        if !struck.is_empty() && (*over.borrow() || Instant::now() + hurt + heal > end) {
            return Ok(struck);
        }
        let began = history.now();
        let mut wounds = Vec::new();
        for one in choose(nemesis, &mut rng) {
            let (what, wound) = strike(world, one, &mut rng).await.with_context(|| format!("{one:?}"))?;
            eprintln!("{:7.1} s  fault: {what}, for {:.1} s", began.as_secs_f64(), hurt.as_secs_f64());
            wounds.push((what, wound));
        }
        pause(hurt, &mut over).await;
        let ended = history.now();
        let what = wounds.iter().map(|(what, _)| what.as_str()).collect::<Vec<_>>().join(" + ");
        // stores and links first: services wait for them when they start
        wounds.sort_by_key(|(_, wound)| matches!(wound, Wound::Restart(Target::Service(_)) | Wound::Starts(_)));
        for (what, wound) in wounds {
            mend(world, wound).await.with_context(|| format!("after {what}"))?;
        }
        struck.push(Struck { what, began, ended, ready: history.now() });
        eprintln!("{:7.1} s  healed after {:.1} s", history.now().as_secs_f64(), (history.now() - ended).as_secs_f64());
        pause(heal, &mut over).await;
    }
}

/// Waits, but not longer than until the load is over.
async fn pause(time: Duration, over: &mut watch::Receiver<bool>) {
    // an error says that nobody will ever tell: then the whole time
    if let Ok(Err(_)) = tokio::time::timeout(time, over.wait_for(|over| *over)).await {
        tokio::time::sleep(time).await;
    }
}

fn choose(nemesis: Nemesis, rng: &mut StdRng) -> Vec<Nemesis> {
    if nemesis != Nemesis::Mix {
        return vec![nemesis];
    }
    let first = Nemesis::SINGLE[rng.random_range(0..Nemesis::SINGLE.len())];
    let others: Vec<Nemesis> = Nemesis::SINGLE.into_iter().filter(|other| other.victim() != first.victim()).collect();
    vec![first, others[rng.random_range(0..others.len())]]
}

async fn strike(world: &World, nemesis: Nemesis, rng: &mut StdRng) -> Result<(String, Wound)> {
    let services = world.services();
    let one = services[rng.random_range(0..services.len())];
    let service = Target::Service(one);
    Ok(match nemesis {
        Nemesis::None | Nemesis::Mix => (String::new(), Wound::Healed),
        Nemesis::KillService => kill(world, service).await?,
        Nemesis::KillPostgres => kill(world, Target::Postgres).await?,
        Nemesis::KillKafka => kill(world, Target::Kafka).await?,
        Nemesis::KillRedis => kill(world, Target::Redis).await?,
        Nemesis::KillProvider => kill(world, Target::Provider).await?,
        Nemesis::KillEnvoy => kill(world, Target::Envoy).await?,
        Nemesis::StopService => stop(world, service).await?,
        Nemesis::StopKafka => stop(world, Target::Kafka).await?,
        Nemesis::StopRedis => stop(world, Target::Redis).await?,
        Nemesis::TermService => {
            let took = world.terminate(service, EXIT).await?;
            let took = took.with_context(|| format!("{service} still ran {EXIT:?} after SIGTERM"))?;
            world.launch(service).await?;
            // ready at the latest when what else is wrong has healed
            (format!("SIGTERM to {service}, gone in {:.1} s", took.as_secs_f64()), Wound::Starts(service))
        }
        Nemesis::HalfOpen => (cut(world, rng), Wound::Links),
        Nemesis::SlowLink => {
            let delay = Duration::from_millis(rng.random_range(5..60));
            world.database_link.set(Link::Slow(delay));
            world.provider_link.set(Link::Slow(delay * 5));
            (format!("links slow by {delay:?} and more"), Wound::Links)
        }
        Nemesis::ShiftClock => {
            let (wrong, all) = (Wrong::choose(rng, clocks::AN_HOUR), rng.random_bool(0.3));
            let whose = if all { services.to_vec() } else { vec![one] };
            (format!("clock of {} {}", whose.join(", "), wrong.words()), Wound::Clocks(world.skew(whose, wrong)?))
        }
        Nemesis::ShiftDatabaseClock => {
            let wrong = Wrong::choose(rng, clocks::HALF_A_MINUTE);
            (format!("clock of postgres {}", wrong.words()), Wound::Clocks(world.skew(vec!["postgres"], wrong)?))
        }
        Nemesis::ProviderFaults => {
            let modes = ["error_500", "unavailable", "garbage", "slow", "timeout_after_charge", "duplicate_webhook", "capture_fails"];
            let mode = modes[rng.random_range(0..modes.len())];
            behave(world, mode).await?;
            (format!("provider: {mode}"), Wound::Behaviour)
        }
    })
}

async fn kill(world: &World, target: Target) -> Result<(String, Wound)> {
    world.kill(target).await?;
    Ok((format!("kill -9 {target}"), Wound::Restart(target)))
}

async fn stop(world: &World, target: Target) -> Result<(String, Wound)> {
    world.freeze(target, "STOP").await?;
    Ok((format!("SIGSTOP {target}"), Wound::GoOn(target)))
}

fn cut(world: &World, rng: &mut StdRng) -> String {
    match rng.random_range(0..4) {
        0 => {
            world.database_link.set(Link::Flaky(100));
            world.provider_link.set(Link::Flaky(10));
            "connections break in the middle".to_owned()
        }
        1 => {
            world.database_link.silence_old();
            world.provider_link.silence_old();
            "old connections fall silent".to_owned()
        }
        2 => {
            world.database_link.set(Link::OneWay);
            "answers of postgres do not arrive".to_owned()
        }
        _ => {
            world.database_link.reset_old();
            world.provider_link.reset_old();
            "connections are reset".to_owned()
        }
    }
}

async fn behave(world: &World, mode: &str) -> Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
    client.put(format!("{}/v1/behaviour", world.provider())).json(&json!({ "mode": mode })).send().await?.error_for_status()?;
    Ok(())
}

async fn mend(world: &World, wound: Wound) -> Result<()> {
    match wound {
        Wound::Restart(target) => {
            world.launch(target).await?;
            world.ready(target).await?;
        }
        Wound::Starts(target) => world.ready(target).await?,
        Wound::GoOn(target) => world.freeze(target, "CONT").await?,
        Wound::Links => {
            world.database_link.set(Link::Good);
            world.provider_link.set(Link::Good);
        }
        Wound::Behaviour => behave(world, "approve").await?,
        Wound::Clocks(skewed) => skewed.end()?,
        Wound::Healed => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_faults_at_once_strike_different_things() {
        for seed in 0..200 {
            let chosen = choose(Nemesis::Mix, &mut StdRng::seed_from_u64(seed));
            assert_eq!(chosen.len(), 2);
            assert_ne!(chosen[0].victim(), chosen[1].victim(), "{chosen:?}");
        }
    }

    #[test]
    fn the_same_seed_chooses_the_same() {
        let all = |seed| (0..20).scan(StdRng::seed_from_u64(seed), |rng, _| Some(choose(Nemesis::Mix, rng))).collect::<Vec<_>>();
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
    }
}
