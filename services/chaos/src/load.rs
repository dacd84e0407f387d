//! Customers: who they are, what they do, all of it decided by the seed, and how an unknown outcome is asked for again.

use crate::{
    door::Customer,
    history::{Ask, History, Reply, Way},
    world::World,
};
use anyhow::{Context, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// How many customers there are; each is one client.
pub const CUSTOMERS: usize = 8;
/// How many there are when the shop shall have as much to do as it can.
pub const CROWD: usize = 40;
/// Longer than any run.
const AGES: Duration = Duration::from_secs(86_400);
const COLD: usize = 20;
const COLD_STOCK: i64 = 100_000;
/// A means of payment that is looked for afterwards where it must not be.
pub const TOKEN_CANARY: &str = "tok_canary_5d1e77b09c";
/// Means of payment and how often each is used, of a hundred.
const TOKENS: &[(&str, u32)] = &[
    ("tok_approve", 38),
    ("", 20),
    (TOKEN_CANARY, 5),
    ("tok_decline", 9),
    ("tok_soft_decline", 8),
    ("tok_timeout_after_charge", 6),
    ("tok_slow", 6),
    ("tok_duplicate_webhook", 5),
    ("tok_garbage", 3),
];

/// Products and customers of a run.
pub struct Shop {
    /// The customers.
    pub customers: Vec<Arc<Customer>>,
    /// The product everybody wants, of which there is little.
    pub hot: Uuid,
    /// Products with plenty.
    pub cold: Vec<Uuid>,
    /// Units of each product at first.
    pub initial: BTreeMap<Uuid, i64>,
    /// Price of each product in minor units.
    pub prices: BTreeMap<Uuid, i64>,
}

/// Makes products and customers through the edge.
///
/// # Errors
/// When the shop refuses or does not answer.
pub async fn furnish(world: &World, customers: usize, hot_stock: i64) -> Result<Shop> {
    let base = world.edge();
    let staff = Customer::sign_in(&base, &world.staff.0, &world.staff.1, Uuid::nil()).await?;
    let (mut initial, mut prices, mut ids) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for n in 0..=COLD {
        let (price, stock) = (199 + 100 * i64::try_from(n)?, if n == 0 { hot_stock } else { COLD_STOCK });
        let id = staff.product(&format!("Chaos {n}"), price, stock).await?;
        initial.insert(id, stock);
        prices.insert(id, price);
        ids.push(id);
    }
    let names: Vec<String> = (0..customers).map(|n| format!("chaos{n}")).collect();
    let mut made = Vec::new();
    for some in names.chunks(4) {
        made.extend(try_join_all(some.iter().map(|name| Customer::register(&base, name))).await?);
    }
    let cold = ids.split_off(1);
    Ok(Shop { customers: made.into_iter().map(Arc::new).collect(), hot: ids[0], cold, initial, prices })
}

/// How much is asked of the shop.
#[derive(Debug, Clone, Copy)]
pub struct Demand {
    /// The seed of all decisions.
    pub seed: u64,
    /// Orders, spread over the time.
    pub orders: usize,
    /// How long.
    pub time: Duration,
    /// How long one operation is repeated until it has a definite answer.
    pub patience: Duration,
}

/// Runs all customers to the end of the demand, their orders spread over its time.
pub async fn run(shop: &Arc<Shop>, history: &Arc<History>, demand: Demand) {
    let think = demand.time.mul_f64(shop.customers.len() as f64 / demand.orders.max(1) as f64);
    drive(shop, history, demand, think, Arc::new(AtomicUsize::new(demand.orders))).await;
}

/// Runs all customers at the rate of the demand until the work is done; the demand's time and number are no limits.
pub async fn until<T>(shop: &Arc<Shop>, history: &Arc<History>, demand: Demand, work: impl Future<Output = T>) -> T {
    let think = demand.time.mul_f64(shop.customers.len() as f64 / demand.orders.max(1) as f64);
    let (left, demand) = (Arc::new(AtomicUsize::new(usize::MAX)), Demand { time: AGES, ..demand });
    let worked = async {
        let done = work.await;
        left.store(0, Ordering::Relaxed);
        done
    };
    tokio::join!(worked, drive(shop, history, demand, think, left.clone())).0
}

/// Places one order of the first customer, and waits until its payment can be read; tells its id.
///
/// # Errors
/// When it is refused, or not paid in time.
pub async fn first_order(shop: &Shop, history: &History, patience: Duration) -> Result<Uuid> {
    let (buyer, ask) = (&shop.customers[0], Ask::Place { lines: vec![(shop.cold[0], 1)], token: "tok_approve".into() });
    let op = history.invoke(buyer.id, Way::Rest, "the-first", ask.clone(), false);
    let reply = until_definite(history, op, buyer, Way::Rest, "the-first", &ask, patience).await;
    let id = reply.as_ref().and_then(Reply::seen).map(|seen| seen.id).with_context(|| format!("the first order was answered {reply:?}"))?;
    let end = Instant::now() + patience;
    while let Err(why) = buyer.look(&format!("/api/payments/{id}")).await {
        ensure!(Instant::now() < end, "the first order has no payment: {why}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(id)
}

/// Runs all customers without a pause between their orders, until all are placed; the demand's time is a limit.
pub async fn flood(shop: &Arc<Shop>, history: &Arc<History>, demand: Demand) {
    drive(shop, history, demand, Duration::ZERO, Arc::new(AtomicUsize::new(demand.orders))).await;
}

async fn drive(shop: &Arc<Shop>, history: &Arc<History>, demand: Demand, think: Duration, left: Arc<AtomicUsize>) {
    let end = Instant::now() + demand.time;
    let clients = (0..shop.customers.len()).map(|n| {
        let client = Client {
            n,
            shop: shop.clone(),
            history: history.clone(),
            rng: StdRng::seed_from_u64(demand.seed.wrapping_mul(1_000_003).wrapping_add(n as u64)),
            demand,
            think,
        };
        tokio::spawn(client.run(left.clone(), end))
    });
    for ended in join_all(clients.collect::<Vec<_>>()).await {
        ended.expect("a client does not panic");
    }
}

struct Client {
    n: usize,
    shop: Arc<Shop>,
    history: Arc<History>,
    rng: StdRng,
    demand: Demand,
    think: Duration,
}

impl Client {
    async fn run(mut self, left: Arc<AtomicUsize>, end: Instant) {
        let mut mine: Vec<Uuid> = Vec::new();
        while Instant::now() < end && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
            let pause = self.think.mul_f64(self.rng.random_range(0.0..2.0));
            tokio::time::sleep_until(end.min(Instant::now() + pause).into()).await;
            self.shop_once(&mut mine).await;
        }
    }

    async fn shop_once(&mut self, mine: &mut Vec<Uuid>) {
        let (lines, token, way) = (self.basket(), self.token(), self.way());
        // not sixteen digits in a row, which would now and then be a card number
        let (one, other) = (self.rng.next_u32(), self.rng.next_u32());
        let key = format!("chaos-{one:08x}x{other:08x}");
        let (cancels, reads, pries) = (self.rng.random_bool(0.12), self.rng.random_bool(0.5), self.rng.random_bool(0.05));
        let (twin, leaves) = (self.rng.random_bool(0.08), self.rng.random_bool(0.05));
        let me = self.shop.customers[self.n].clone();
        let ask = Ask::Place { lines, token };
        let placed = if leaves {
            let op = self.history.invoke(me.id, way, &key, ask.clone(), false);
            self.history.abandon(op);
            let reply = me.ask(way, &key, &ask).await;
            self.history.note(op, reply.clone());
            Some(reply)
        } else if twin {
            // the impatient click twice: the same request twice at once
            let (one, _) = tokio::join!(self.persist(&me, way, &key, ask.clone(), false), self.persist(&me, way, &key, ask, true));
            one
        } else {
            self.persist(&me, way, &key, ask, false).await
        };
        let Some(id) = placed.as_ref().and_then(Reply::seen).map(|seen| seen.id) else { return };
        mine.push(id);
        if reads {
            let other_way = if way == Way::Rest { Way::Grpc } else { Way::Rest };
            self.once(&me, other_way, Ask::Read(id)).await;
            let old = mine[self.rng.random_range(0..mine.len())];
            self.once(&me, way, Ask::Read(old)).await;
        }
        if pries {
            let stranger = self.shop.customers[(self.n + 1) % self.shop.customers.len()].clone();
            self.once(&stranger, way, Ask::Pry(id)).await;
        }
        if cancels {
            self.persist(&me, way, &format!("{key}-cancel"), Ask::Cancel(id), false).await;
        }
    }

    async fn persist(&self, who: &Customer, way: Way, key: &str, ask: Ask, repeated: bool) -> Option<Reply> {
        let op = self.history.invoke(who.id, way, key, ask.clone(), repeated);
        until_definite(&self.history, op, who, way, key, &ask, self.demand.patience).await
    }

    async fn once(&self, who: &Customer, way: Way, ask: Ask) {
        let op = self.history.invoke(who.id, way, "", ask.clone(), false);
        self.history.note(op, who.ask(way, "", &ask).await);
    }

    fn basket(&mut self) -> Vec<(Uuid, i64)> {
        let mut lines: Vec<(Uuid, i64)> = Vec::new();
        if self.rng.random_bool(0.3) {
            lines.push((self.shop.hot, 1));
        }
        for _ in 0..self.rng.random_range(1..=3) {
            let product = self.shop.cold[self.rng.random_range(0..self.shop.cold.len())];
            if lines.iter().all(|(known, _)| *known != product) {
                lines.push((product, self.rng.random_range(1..=3)));
            }
        }
        lines
    }

    fn token(&mut self) -> String {
        let mut roll = self.rng.random_range(0..TOKENS.iter().map(|(_, weight)| weight).sum());
        let chosen = TOKENS.iter().find(|(_, weight)| match roll.checked_sub(*weight) {
            Some(rest) => {
                roll = rest;
                false
            }
            None => true,
        });
        chosen.map_or(String::new(), |(token, _)| (*token).to_owned())
    }

    fn way(&mut self) -> Way {
        if self.rng.random_bool(0.3) { Way::Grpc } else { Way::Rest }
    }
}

/// Sends the same request with the same key until it has a definite answer, at most as long as the patience lasts.
pub async fn until_definite(
    history: &History,
    op: usize,
    who: &Customer,
    way: Way,
    key: &str,
    ask: &Ask,
    patience: Duration,
) -> Option<Reply> {
    let end = Instant::now() + patience;
    let mut pause = Duration::from_millis(50);
    loop {
        let reply = who.ask(way, key, ask).await;
        history.note(op, reply.clone());
        if reply.definite() {
            return Some(reply);
        }
        if Instant::now() > end {
            return None;
        }
        tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Asks again for everything that is still unknown.
pub async fn resolve(shop: &Shop, history: &History, patience: Duration) {
    for op in history.ops().into_iter().filter(|op| !op.key.is_empty() && !op.abandoned && op.outcome().is_none()) {
        if let Some(who) = shop.customers.iter().find(|customer| customer.id == op.subject) {
            until_definite(history, op.id, who, op.way, &op.key, &op.ask, patience).await;
        }
    }
}

/// Repeats some operations that have their answer: once the same, and once with another request under the same key.
pub async fn repeat(shop: &Shop, history: &History, most: usize) {
    let placed: Vec<_> = history.ops().into_iter().filter(|op| op.places() && !op.repeated && op.outcome().is_some()).collect();
    for op in placed.iter().step_by(placed.len().div_ceil(most.max(1)).max(1)) {
        let Some(who) = shop.customers.iter().find(|customer| customer.id == op.subject) else { continue };
        let Ask::Place { lines, token } = &op.ask else { continue };
        let other = Ask::Place { lines: lines.iter().map(|(product, units)| (*product, units + 1)).collect(), token: token.clone() };
        for ask in [op.ask.clone(), other] {
            let again = history.invoke(who.id, op.way, &op.key, ask.clone(), true);
            until_definite(history, again, who, op.way, &op.key, &ask, Duration::from_secs(20)).await;
        }
    }
}
