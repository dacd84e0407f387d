//! One scene: what its customers do, how its shop dies and comes back, and what is true afterwards.

use super::{AUDIT_ROWS, BEFORE, END_LEASES, LIMIT, SHOP, Stage, TICK, lock, offsets, quiet};
use crate::{
    check::{self, Violation},
    door::Customer,
    facts::{Facts, IdleSession, Rewind},
    history::{Ask, History, Reply, Way},
    hygiene::{self, Sight},
    load::{self, Shop},
    load_facts,
    nemesis::EXIT,
    world::{STORES, World},
};
use anyhow::{Context, Result, bail, ensure};
use sqlx::{Connection as _, Executor as _, PgConnection};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// A shop with a few products and customers.
pub struct Scene<'s> {
    stage: &'s Stage,
    /// The mistake it has; empty for none.
    pub plant: String,
    /// Products and customers.
    pub shop: Shop,
    /// Somebody who may change products.
    pub staff: Customer,
    /// What the customers asked and heard.
    pub history: History,
    /// Sessions that sat idle in a transaction, see [`Scene::watch_sessions`].
    idle: Mutex<Vec<Sight>>,
    /// The provider's ledger had so many lines before.
    seen: u64,
    keys: AtomicU64,
}

impl<'s> Scene<'s> {
    pub(super) fn new(stage: &'s Stage, plant: &str, shop: Shop, staff: Customer, seen: u64) -> Self {
        let (history, idle, keys) = (History::default(), Mutex::default(), AtomicU64::new(0));
        Self { stage, plant: plant.to_owned(), shop, staff, history, idle, seen, keys }
    }

    /// The parts under it.
    pub fn world(&self) -> &World {
        &self.stage.world
    }

    /// A session of its own with the database of a role, past the link.
    ///
    /// # Errors
    /// When PostgreSQL does not answer.
    pub async fn database(&self, role: &str) -> Result<PgConnection> {
        self.stage.database(&format!("mercato_{role}")).await
    }

    /// Places an order for one unit, and asks again with the same key until the answer is definite.
    pub async fn place(&self, product: Uuid, token: &str) -> Option<Reply> {
        let n = self.keys.fetch_add(1, Ordering::Relaxed);
        let way = if n.is_multiple_of(3) { Way::Grpc } else { Way::Rest };
        let ask = Ask::Place { lines: vec![(product, 1)], token: token.to_owned() };
        self.ask(n, way, &format!("scene-{n}"), ask).await
    }

    /// Cancels an order of the same customer.
    pub async fn cancel(&self, placed: &Reply) -> Option<Reply> {
        let seen = placed.seen()?;
        let n = u64::from(self.shop.customers[0].id != seen.customer);
        self.ask(n, Way::Rest, &format!("cancel-{}", seen.id), Ask::Cancel(seen.id)).await
    }

    /// Asks for an order that is somebody else's, both ways.
    pub async fn pry(&self, placed: &Reply) {
        let Some(seen) = placed.seen() else { return };
        let Some(stranger) = self.shop.customers.iter().find(|customer| customer.id != seen.customer) else { return };
        for way in [Way::Rest, Way::Grpc] {
            let op = self.history.invoke(stranger.id, way, "", Ask::Pry(seen.id), false);
            self.history.note(op, stranger.ask(way, "", &Ask::Pry(seen.id)).await);
        }
    }

    async fn ask(&self, who: u64, way: Way, key: &str, ask: Ask) -> Option<Reply> {
        let who = &self.shop.customers[usize::from(who % 2 == 1)];
        let op = self.history.invoke(who.id, way, key, ask.clone(), false);
        load::until_definite(&self.history, op, who, way, key, &ask, LIMIT).await
    }

    /// Asks to cancel an order that does not exist, and goes away after so many milliseconds, whatever comes of it.
    pub async fn hang_up(&self, after: u64) {
        let (key, ask) = (format!("hang-up-{}", Uuid::now_v7()), Ask::Cancel(Uuid::now_v7()));
        let asked = self.shop.customers[0].ask(Way::Grpc, &key, &ask);
        // the answer is of no interest, nor whether there was one
        drop(tokio::time::timeout(Duration::from_millis(after), asked).await);
    }

    /// Repeats what was placed: once the same, and once with another request under the same key.
    pub async fn repeat(&self) {
        load::repeat(&self.shop, &self.history, usize::MAX).await;
    }

    /// Asks the shop to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn stop(&self) -> Result<()> {
        self.world().terminate(SHOP, EXIT).await?.context("the shop did not end on request")?;
        Ok(())
    }

    /// Puts every consumer back to the first event. The shop must not run.
    ///
    /// # Errors
    /// When the broker refuses.
    pub async fn rewind(&self) -> Result<()> {
        offsets::rewind(self.world()).await
    }

    /// Whether every consumer has said that it heard everything.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn caught_up(&self) -> Result<bool> {
        offsets::caught_up(self.world()).await
    }

    /// Starts the shop again, to die at this place once armed; `""` for nowhere.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&self, crash: &str) -> Result<()> {
        self.stage.start(crash).await
    }

    /// Lets customers do something, again and again until the shop dies of it at `place`, where it was started to die; then starts it to
    /// die at `next`. The customers ask until they know.
    ///
    /// # Errors
    /// When the shop does not die there, or not start again.
    pub async fn dies(&self, place: &str, next: &str, customers: impl AsyncFn() -> Result<()>) -> Result<()> {
        let told_before = self.tellings(place)?;
        self.stage.arm()?;
        let came_back = Mutex::new(false);
        let restart = async {
            self.death().await.with_context(|| format!("{place} does not fire"))?;
            ensure!(self.tellings(place)? == told_before + 1, "the shop died, but not at {place}");
            self.stage.disarm()?;
            self.end_leases().await?;
            self.start(next).await?;
            *lock(&came_back) = true;
            Ok::<_, anyhow::Error>(())
        };
        let act = async {
            loop {
                customers().await?;
                let end = Instant::now() + ENOUGH;
                while Instant::now() < end {
                    if *lock(&came_back) {
                        return Ok::<_, anyhow::Error>(());
                    }
                    tokio::time::sleep(TICK).await;
                }
            }
        };
        tokio::try_join!(restart, act).map(drop)
    }

    async fn death(&self) -> Result<()> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some((target, status)) = self.world().take_dead().await.pop() {
                ensure!(target == SHOP && status.contains("SIGABRT"), "{target} ended: {status}");
                return Ok(());
            }
            if Instant::now() > end {
                bail!("the shop lives after {LIMIT:?}");
            }
            tokio::time::sleep(TICK / 2).await;
        }
    }

    /// How often the shop has told that it dies at a place.
    fn tellings(&self, place: &str) -> Result<usize> {
        let place = place.split(':').next().unwrap_or_default();
        let log = std::fs::read(self.world().logs().join("mercato.log")).context("the shop's log")?;
        Ok(String::from_utf8_lossy(&log).matches(&format!("crash point {place}:")).count())
    }

    /// The leases of a dead process run out in time; this is that time.
    async fn end_leases(&self) -> Result<()> {
        for role in STORES {
            let mut db = self.database(role).await?;
            db.execute(END_LEASES).await?;
            db.close().await?;
        }
        Ok(())
    }

    /// Looks for sessions idle in a transaction until it is dropped.
    pub async fn watch_sessions(&self) {
        hygiene::watch(self.world(), &self.history, &self.idle).await;
    }

    /// Whether such a session was seen for longer than one may be.
    pub fn saw_idle_session(&self) -> bool {
        self.idle_sessions().iter().any(|idle| idle.seconds > idle.limit)
    }

    fn idle_sessions(&self) -> Vec<IdleSession> {
        let limit = if self.plant.is_empty() { hygiene::LIMIT } else { hygiene::PLANTED };
        hygiene::judge(lock(&self.idle).clone(), &[], limit)
    }

    /// Waits until nothing moves any more; tells what is left over.
    ///
    /// # Errors
    /// When a store cannot be read.
    pub async fn quiet(&self) -> Result<Vec<String>> {
        quiet(self.world(), !self.plant.is_empty()).await
    }

    /// What is true now.
    ///
    /// # Errors
    /// When a store cannot be read.
    pub async fn facts(&self) -> Result<Facts> {
        let mut facts = load_facts::load(self.world()).await?;
        for (topic, records) in &self.stage.before.topics {
            let shifted = records.iter().cloned().map(|mut record| {
                record.at.1 += BEFORE;
                record
            });
            facts.topics.entry(topic.clone()).or_default().splice(0..0, shifted);
        }
        facts.provider.retain(|entry| entry.sequence > self.seen);
        facts.ops = self.history.ops();
        facts.initial.clone_from(&self.shop.initial);
        facts.prices.clone_from(&self.shop.prices);
        facts.idle = self.idle_sessions();
        for role in STORES {
            let mut db = self.database(role).await?;
            let rewinds: Vec<Rewind> = sqlx::query_as(AUDIT_ROWS).fetch_all(&mut db).await?;
            facts.rewinds.extend(rewinds);
            db.close().await?;
        }
        Ok(facts)
    }

    /// What was not kept of all promises, and what does not come to rest.
    ///
    /// # Errors
    /// When a store cannot be read.
    pub async fn judge(&self) -> Result<(Vec<String>, Vec<Violation>)> {
        load::resolve(&self.shop, &self.history, LIMIT).await;
        let busy = self.quiet().await?;
        Ok((busy, check::all(&self.facts().await?)))
    }
}

/// How long customers wait for what they did to have its effect before they do it again.
const ENOUGH: Duration = Duration::from_secs(10);
