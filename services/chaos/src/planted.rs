//! A stage for mistakes on purpose and chosen deaths: one set of parts, and on it one shop after another, each with stores of its own.
//!
//! The shop is `mercato-planted`, the executable in which `MERCATO_PLANT` chooses a mistake and `MERCATO_CRASH` a place to die.

mod offsets;
mod scene;

use crate::{
    door::Customer,
    facts::Facts,
    load::Shop,
    load_facts::{self, TOPICS},
    process::{Env, answers},
    settle,
    world::{Form, Programs, STORES, Target, World},
};
use anyhow::{Context, Result, bail, ensure};
pub use scene::Scene;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

/// The shop's process.
pub const SHOP: Target = Target::Service("mercato");
/// The longest wait for anything, on a machine of any speed.
pub const LIMIT: Duration = Duration::from_secs(300);
/// Nothing may move for this long before the facts are judged.
const CALM: Duration = Duration::from_secs(1);
/// The same when something is left over that nobody comes for.
const STUCK: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(100);
/// Offsets of what was in the topics before the first scene, so that they are before those of every scene.
const BEFORE: i64 = -1_000_000;

/// Notes each event that a consumer applies at or before one it has applied.
const AUDIT: &str = "
    create table chaos_rewind (consumer text not null, topic text not null, aggregate uuid not null, \"from\" bigint not null, \"to\" bigint not null);
    create function chaos_rewind() returns trigger language plpgsql as $$ begin
        insert into chaos_rewind values (new.consumer, new.topic, new.aggregate, old.last_seq, new.last_seq);
        return null;
    end $$;
    create trigger chaos_rewind after update on inbox_sequence for each row when (new.last_seq <= old.last_seq) execute function chaos_rewind()";
const AUDIT_ROWS: &str = "select consumer, topic, aggregate, \"from\", \"to\" from chaos_rewind";
/// What time would do to the leases of a process that is dead.
const END_LEASES: &str = "
    update work set lease_until = clock_timestamp() where lease_until is not null;
    update relay_lease set owner = null, expires_at = '-infinity'";

/// The mistake and the death that were chosen for a run by hand, with PLANT and CRASH.
pub(crate) fn chosen() -> Env {
    let variables = ["MERCATO_PLANT", "MERCATO_CRASH"].into_iter();
    variables.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok().filter(|value| !value.is_empty())?))).collect()
}

impl World {
    /// Who died at the chosen place dies there once.
    pub(crate) fn die_no_more(&self) {
        self.tell("MERCATO_CRASH", "");
    }

    /// What stands before every topic of the shop that runs now.
    pub(crate) fn topic_prefix(&self) -> String {
        lock(&self.besides).get("MERCATO_TOPIC_PREFIX").cloned().unwrap_or_default()
    }

    /// Sets what processes started from now on are told besides; an empty value takes it back.
    fn tell(&self, name: &str, value: &str) {
        let mut besides = lock(&self.besides);
        if value.is_empty() {
            besides.remove(name);
        } else {
            besides.insert(name.to_owned(), value.to_owned());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a program's story to its end, or until Ctrl-C or SIGTERM; what it started is taken down either way.
///
/// # Errors
/// Those of the story, and when it is interrupted.
pub fn run<T>(story: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("a handler for SIGTERM")?;
        tokio::select! {
            ended = story => ended,
            _ = terminate.recv() => bail!("interrupted"),
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

/// The parts, on which scenes are played.
pub struct Stage {
    world: World,
    /// While this file exists, passings of the chosen crash point count.
    armed: PathBuf,
    before: Facts,
    scenes: usize,
}

impl Stage {
    /// Starts parts, provider and edge, and keeps the stores of an empty shop for all scenes. The executable is MERCATO_PLANTED_BIN.
    ///
    /// # Errors
    /// What did not start.
    pub async fn open(name: &str) -> Result<Self> {
        let mut programs = Programs::from_env()?;
        programs.mercato = std::env::var_os("MERCATO_PLANTED_BIN").context("MERCATO_PLANTED_BIN must be set: run dev/test")?.into();
        let state = PathBuf::from(format!("/var/tmp/mercato-{name}-{}", std::process::id()));
        let armed = state.join("armed");
        let more = [
            ("MERCATO_CRASH_ARMED", armed.display().to_string()),
            ("MERCATO_PROVIDER_TIMEOUT_MS", "1500".to_owned()),
            ("MERCATO_PAYMENT_TRIES", "3".to_owned()),
            // nothing expires while a slow machine plays a scene
            ("MERCATO_RESERVATION_TTL_MS", "600000".to_owned()),
            ("MERCATO_PAYMENT_DEADLINE_MS", "500000".to_owned()),
        ];
        let more: Env = more.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let world = World::start(programs, &state, Form::Together, &more).await.context("the shop does not start")?;
        let mut stage = Self { world, armed, before: Facts::default(), scenes: 0 };
        let busy = quiet(&stage.world, false).await?;
        ensure!(busy.is_empty(), "an empty shop does not come to rest: {busy:?}");
        stage.before = load_facts::load(&stage.world).await?;
        stage.world.kill(SHOP).await?;
        for role in STORES {
            let mut db = stage.database(&format!("mercato_{role}")).await?;
            db.execute(AUDIT).await.context("the audit")?;
            db.close().await?;
            stage.rename(role).await?;
        }
        Ok(stage)
    }

    async fn database(&self, name: &str) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.world.database_url(name)?).await?)
    }

    async fn rename(&self, role: &str) -> Result<()> {
        let mut db = self.database("postgres").await?;
        let end = Instant::now() + LIMIT;
        loop {
            // sessions of the process that was killed may still be ending
            let renamed = db.execute(AssertSqlSafe(format!("alter database mercato_{role} rename to empty_{role}"))).await;
            match renamed {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error).context("keep the empty stores"),
                Err(_) => tokio::time::sleep(TICK).await,
            }
        }
    }

    /// Begins a scene: empty stores, a few products and customers, and the shop with this mistake; `""` for none.
    ///
    /// # Errors
    /// What did not start.
    pub async fn scene(&mut self, plant: &str) -> Result<Scene<'_>> {
        self.clear().await?;
        self.scenes += 1;
        let prefix = format!("scene{}-", self.scenes);
        let mut db = self.database("postgres").await?;
        for role in STORES {
            db.execute(AssertSqlSafe(format!("drop database if exists mercato_{role} with (force)"))).await?;
            db.execute(AssertSqlSafe(format!("create database mercato_{role} template empty_{role}"))).await?;
        }
        offsets::create(&self.world.brokers(), &TOPICS.map(|topic| format!("{prefix}{topic}"))).await?;
        self.world.tell("MERCATO_TOPIC_PREFIX", &prefix);
        self.world.tell("MERCATO_PLANT", plant);
        let seen = load_facts::provider(&self.world.provider()).await?.last().map_or(0, |entry| entry.sequence);
        self.start("").await?;
        let (shop, staff) = furnish(&self.world).await.context("products and customers")?;
        Ok(Scene::new(self, plant, shop, staff, seen))
    }

    /// Starts the shop, with the place where it shall die once [`Stage::arm`] was called, such as `C-02:1`; `""` for nowhere.
    async fn start(&self, crash: &str) -> Result<()> {
        self.world.tell("MERCATO_CRASH", crash);
        self.world.launch(SHOP).await?;
        self.world.ready(SHOP).await?;
        let list = format!("{}/api/products?pageSize=1", self.world.edge());
        answers(&list, false, LIMIT, &self.world.logs().join("mercato.log")).await
    }

    fn arm(&self) -> Result<()> {
        std::fs::write(&self.armed, "").context("arm")
    }

    /// Ends the shop of the scene before, whatever state it is in.
    async fn clear(&self) -> Result<()> {
        self.disarm()?;
        self.world.take_dead().await;
        if self.world.pid(SHOP).await.is_ok() {
            self.world.kill(SHOP).await?;
        }
        Ok(())
    }

    fn disarm(&self) -> Result<()> {
        match std::fs::remove_file(&self.armed) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("disarm"),
            _ => Ok(()),
        }
    }

    /// Keeps folder and logs, for somebody to look at; tells where.
    pub fn keep(&mut self) -> PathBuf {
        self.world.keep();
        self.world.logs()
    }
}

/// One product of which there are two, one with plenty, and two customers.
async fn furnish(world: &World) -> Result<(Shop, Customer)> {
    let base = world.edge();
    let staff = Customer::sign_in(&base, &world.staff.0, &world.staff.1, Uuid::nil()).await?;
    let (mut initial, mut prices, mut ids) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for (name, price, stock) in [("Few", 500, 2), ("Many", 700, 100_000)] {
        let id = staff.product(name, price, stock).await?;
        initial.insert(id, stock);
        prices.insert(id, price);
        ids.push(id);
    }
    let mut customers = Vec::new();
    for name in ["anna", "bela"] {
        customers.push(Arc::new(Customer::register(&base, name).await?));
    }
    let cold = ids.split_off(1);
    Ok((Shop { customers, hot: ids[0], cold, initial, prices }, staff))
}

/// Waits until nothing has moved for a while; tells what still moved at the end of patience, or, where something may be left over that
/// nobody comes for, what that is.
async fn quiet(world: &World, leftovers: bool) -> Result<Vec<String>> {
    let end = Instant::now() + LIMIT;
    let (mut before, mut since) = (None, Instant::now());
    loop {
        let busy = settle::busy(world).await?;
        if before.as_ref() != Some(&busy) {
            (before, since) = (Some(busy.clone()), Instant::now());
        }
        let stuck = || async { Ok::<_, anyhow::Error>(leftovers && since.elapsed() >= STUCK && offsets::caught_up(world).await?) };
        let still = if busy.is_empty() { since.elapsed() >= CALM } else { stuck().await? };
        if still || Instant::now() > end {
            return Ok(busy);
        }
        tokio::time::sleep(TICK).await;
    }
}
