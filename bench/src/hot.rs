//! Scenario `hot`: reservations of one product by 64 clients straight at inventory's gRPC port, as ordering calls it, beside a transaction
//! a reservation that locks the product's row. Counts the units afterwards, and sells a small stock out.

use crate::Settings;
use crate::database::drained;
use crate::load::{Caller, Outcome, closed};
use crate::measured::{Measured, costs, rates, times};
use crate::peer::Peer;
use crate::processes::Processes;
use crate::rowlock;
use crate::shop;
use anyhow::Context;
use futures_util::{StreamExt, stream};
use mercato_contracts::mercato::inventory::v1::reservation_service_client::ReservationServiceClient;
use mercato_contracts::mercato::inventory::v1::{ReleaseReservationRequest, ReservationItem, ReserveRequest};
use std::cell::RefCell;
use std::time::Duration;
use tonic::Code;
use tonic::transport::Channel;
use uuid::Uuid;

/// Who reserves at once.
const CLIENTS: usize = 64;
/// Connections they share, as an ordering process of each would have one.
const CONNECTIONS: usize = 4;
/// Units the load cannot use up.
const PLENTY: u32 = 10_000_000;
/// Units that are sold out.
const SCARCE: u32 = 1000;
/// How long availability may lag.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the shop may take to send what was written.
const SENDING: Duration = Duration::from_secs(60);
const WARM_UP: Duration = Duration::from_secs(1);

/// Runs it.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    let products = shop::products(&settings.url, 2).await?;
    let [hot, scarce] = products.as_slice() else { anyhow::bail!("the shop has fewer than two products") };
    let staff = shop::staff(settings).await?;
    let processes = Processes::find(&settings.run_dir)?;
    let bench = Bench { settings, staff, peers: peers(settings).await?, orders: RefCell::default() };
    let before = bench.restock(&hot.id, PLENTY).await?;
    let (load, sold) = bench.load(&hot.id, before, &processes).await?;
    eprintln!("selling out");
    let sold_out = bench.sell_out(&scarce.id).await?;
    eprintln!("row locks");
    let floor = rowlock::measure(&settings.database, &processes, CLIENTS, settings.share(1, 3)).await?;
    introduce(settings);
    rates("reservations", &[&load, &floor]).print();
    costs("reservation", &processes, &[&load, &floor]).print();
    println!("Goal: 10 x the row lock; reached: {}. {sold}\n{sold_out}\n", times(load.rate(), floor.rate()));
    bench.release().await?;
    if !drained(&settings.database, "inventory", SENDING).await? {
        eprintln!("events of this scenario are still being sent");
    }
    Ok(())
}

fn introduce(settings: &Settings) {
    println!("## hot: reservations of one product\n");
    println!(
        "{CLIENTS} clients on {CONNECTIONS} connections call ReservationService.Reserve at inventory's own port with a peer's credential, one \
         unit each, again and again, {:.1} s. `row lock`: {CLIENTS} clients on {CLIENTS} connections to the same PostgreSQL, a durable \
         transaction of five round trips a reservation in tables of the same shape. CPU of the shop includes sending and consuming all events \
         of the load, idle use included; nobody sends those of the floor.\n",
        settings.share(1, 3).as_secs_f64(),
    );
}

async fn peers(settings: &Settings) -> anyhow::Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for _ in 0..CONNECTIONS {
        peers.push(Peer::connect(&settings.inventory, &settings.peer_secret).await?);
    }
    Ok(peers)
}

struct Bench<'a> {
    settings: &'a Settings,
    staff: String,
    peers: Vec<Peer>,
    /// Orders that hold a unit, or may.
    orders: RefCell<Vec<Uuid>>,
}

impl Bench<'_> {
    /// Makes so many units available; how many are.
    async fn restock(&self, product: &str, units: u32) -> anyhow::Result<i64> {
        let url = &self.settings.url;
        let held = u32::try_from(shop::stock(url, product).await?.held())?;
        shop::set_stock(url, &self.staff, product, units + held).await?;
        shop::await_available(url, product, units.into(), PATIENCE).await
    }

    fn buyers<'b>(&'b self, product: &'b str) -> Vec<Buyer<'b>> {
        let peers = self.peers.iter().cycle().take(CLIENTS);
        let buyer = |peer: &'b Peer| {
            let client = ReservationServiceClient::new(peer.channel.clone());
            Buyer { client, peer, product, orders: &self.orders, sold_out: false, sold: 0 }
        };
        peers.map(buyer).collect()
    }

    /// The load, and what became of the units.
    async fn load(&self, product: &str, before: i64, processes: &Processes) -> anyhow::Result<(Measured, String)> {
        let mut buyers = self.buyers(product);
        let warm: Outcome = closed(&mut buyers, WARM_UP).await;
        drained(&self.settings.database, "inventory", SENDING).await?;
        let meter = processes.start()?;
        let outcome = closed(&mut buyers, self.settings.share(1, 3)).await;
        let sent = drained(&self.settings.database, "inventory", SENDING).await?;
        let cost = meter.stop()?;
        let acknowledged: i64 = buyers.iter().map(|b| b.sold).sum();
        let fell = before - shop::await_available(&self.settings.url, product, before - acknowledged, PATIENCE).await?;
        let unclear = warm.failed + outcome.failed;
        let verdict = if fell == acknowledged || (fell > acknowledged && (fell - acknowledged).unsigned_abs() <= unclear) {
            "as it must be"
        } else {
            "WRONG"
        };
        let unsent = if sent { "" } else { " Some events were not sent in time." };
        let text = format!("Units gone: {fell}, holds acknowledged: {acknowledged}, without an answer: {unclear}: {verdict}.{unsent}");
        Ok((Measured { name: "shop".into(), outcome, cost }, text))
    }

    /// All buy until nothing is left.
    async fn sell_out(&self, product: &str) -> anyhow::Result<String> {
        let level = u32::try_from(shop::stock(&self.settings.url, product).await?.stock_level)?;
        let units = self.restock(product, SCARCE).await?;
        let mut buyers = self.buyers(product);
        let selling = buyers.iter_mut().map(|buyer| async move {
            while !buyer.sold_out {
                buyer.call(0).await?;
            }
            anyhow::Ok(buyer.sold)
        });
        let sold: i64 = futures_util::future::try_join_all(selling).await?.into_iter().sum();
        let left = shop::await_available(&self.settings.url, product, 0, PATIENCE).await?;
        let verdict = if sold == units && left == 0 { "as it must be" } else { "WRONG" };
        self.release().await?;
        shop::set_stock(&self.settings.url, &self.staff, product, level).await?;
        Ok(format!("Another product of {units} units, sold to all {CLIENTS} until nothing was left: {sold} sold, {left} left: {verdict}."))
    }

    /// Gives everything back, so that nothing runs out in a later scenario.
    async fn release(&self) -> anyhow::Result<()> {
        release(&self.peers, self.orders.take()).await
    }
}

/// Gives back what these orders hold.
pub async fn release(peers: &[Peer], orders: Vec<Uuid>) -> anyhow::Result<()> {
    eprintln!("releasing {} holds", orders.len());
    let turns = orders.into_iter().zip(peers.iter().cycle());
    let released = stream::iter(turns).map(|(order, peer)| async move {
        let request = peer.request(ReleaseReservationRequest { order_id: order.to_string() })?;
        ReservationServiceClient::new(peer.channel.clone()).release_reservation(request).await?;
        anyhow::Ok(())
    });
    let failed = released.buffer_unordered(CLIENTS).filter(|r| std::future::ready(r.is_err())).count().await;
    if failed > 0 {
        eprintln!("{failed} holds were not released and run out by themselves");
    }
    Ok(())
}

struct Buyer<'a> {
    client: ReservationServiceClient<Channel>,
    peer: &'a Peer,
    product: &'a str,
    orders: &'a RefCell<Vec<Uuid>>,
    sold_out: bool,
    sold: i64,
}

impl Caller for Buyer<'_> {
    async fn call(&mut self, _: u64) -> anyhow::Result<()> {
        let order = Uuid::now_v7();
        match self.client.reserve(self.peer.request(reserve(order, self.product))?).await {
            Ok(_) => {
                self.sold += 1;
                self.orders.borrow_mut().push(order);
                Ok(())
            }
            Err(status) if status.code() == Code::FailedPrecondition => {
                self.sold_out = true;
                Ok(())
            }
            Err(status) => {
                // it may have been held all the same
                self.orders.borrow_mut().push(order);
                Err(status).context("reserving")
            }
        }
    }
}

/// One unit for an order.
pub fn reserve(order: Uuid, product: &str) -> ReserveRequest {
    ReserveRequest { order_id: order.to_string(), items: vec![ReservationItem { product_id: product.to_owned(), quantity: 1 }] }
}
