//! Scenario `order`: orders from POST until PAID, over many products and over one, beside a bare insert.

use crate::Settings;
use crate::database::{self, Work};
use crate::floor;
use crate::load::{Caller, Latencies, Outcome, closed};
use crate::metrics::{self, Figures};
use crate::paid::{End, Paid};
use crate::processes::{Cost, GENERATOR, Processes, idle};
use crate::report::{Table, millis, millis_each, number, rate};
use crate::rest::{Ask, Connection};
use crate::shop;
use anyhow::Context;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Products of the spread load.
const PRODUCTS: usize = 1000;
/// Units of the hot product.
const HOT_STOCK: u32 = 1_000_000;
/// Before anything is counted. The broker's compiler works through the hot paths of its code meanwhile, which a broker that runs for days did
/// on its first; the measurement should not pay for it.
const WARM_UP: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(3);
/// After the last order is paid: what is still done for orders belongs to their cost.
const SETTLE: Duration = Duration::from_secs(1);
/// An order that is not paid after this counts as not paid.
const PATIENCE: Duration = Duration::from_secs(15);
/// Paid orders that are read back after a load.
const SAMPLE: usize = 50;

/// Runs it.
pub async fn run(settings: &Settings) -> anyhow::Result<()> {
    let products = shop::products(&settings.url, PRODUCTS).await?;
    let ids: Vec<String> = products.iter().map(|p| p.id.clone()).collect();
    let hot = ids.first().context("the shop has no products")?.clone();
    let staff = shop::staff(settings).await?;
    shop::set_stock(&settings.url, &staff, &hot, HOT_STOCK).await?;
    eprintln!("registering {} customers", settings.customers);
    let tokens: Arc<[String]> = shop::customers(&settings.url, settings.customers).await?.into();
    let processes = Processes::find(&settings.run_dir)?;
    let paid = Paid::listen(&settings.brokers).await?;
    // the sign-ins' own aftermath should not count as idling
    tokio::time::sleep(SETTLE).await;
    let bench = Bench { settings, processes: &processes, paid: &paid, tokens };
    let idle = idle(&processes, IDLE).await?;
    eprintln!("orders over {} products", ids.len());
    let spread = bench.load(&ids).await?;
    let before = shop::available(&settings.url, &hot).await?;
    eprintln!("orders over one product");
    let one = bench.load(std::slice::from_ref(&hot)).await?;
    let sold = before - shop::available(&settings.url, &hot).await?;
    eprintln!("inserts");
    let row = body(&hot);
    let floor = floor::insert(&settings.database, &row, &processes, settings.share(1, 5)).await?;
    introduce(settings, ids.len());
    rates(&spread, &one, &floor).print();
    costs(&processes, &idle, &spread, &one, &floor).print();
    spread.work.table(spread.paying.count()).print();
    let [before, after] = &spread.figures;
    after.batches(before, number(spread.paying.count())).print();
    remarks(&[("spread", &spread), ("hot", &one)]);
    println!("Units of the hot product sold: {sold}; orders of it that ended PAID or are still under way: {}.\n", one.standing);
    Ok(())
}

fn introduce(settings: &Settings, products: usize) {
    println!("## order: from POST /api/orders to PAID\n");
    println!(
        "{} customers, {} orders under way at any time, one unit of one product each; `spread` takes {products} products in turn, `hot` one. \
         Paid is when `order.payment_processed` arrives from Kafka. {:.1} s of ordering each; an order's cost includes the wait until all are \
         paid and {} s after. The insert is one durable row of {} bytes. `others`: cores kept busy by processes that are not part of this.\n",
        settings.customers,
        settings.in_flight,
        settings.share(2, 5).as_secs_f64(),
        SETTLE.as_secs(),
        body("00000000-0000-0000-0000-000000000000").len(),
    );
}

fn body(product: &str) -> String {
    json!({
        "items": [ { "productId": product, "quantity": 1 } ],
        "shippingAddress": { "street": "1 Market Street", "city": "Springfield", "state": "IL", "zipCode": "62701" },
        "paymentMethod": "credit_card"
    })
    .to_string()
}

/// What came of a load of orders.
struct Ordered {
    placing: Latencies,
    paying: Latencies,
    /// Within the time of ordering.
    placed_in_time: u64,
    paid_in_time: u64,
    time: Duration,
    cost: Cost,
    work: Work,
    /// What the shop counted before and after.
    figures: [Figures; 2],
    /// Orders that hold their unit, the warm-up's included.
    standing: u64,
    /// What was refused or went wrong, and how often.
    trouble: BTreeMap<String, u64>,
    read_back: String,
}

struct Bench<'a> {
    settings: &'a Settings,
    processes: &'a Processes,
    paid: &'a Paid,
    tokens: Arc<[String]>,
}

impl Bench<'_> {
    async fn load(&self, products: &[String]) -> anyhow::Result<Ordered> {
        let bodies: Arc<[String]> = products.iter().map(|p| body(p)).collect();
        let book = RefCell::new(Book::default());
        let mut buyers: Vec<Buyer<'_>> = self
            .tokens
            .iter()
            .cycle()
            .take(self.settings.in_flight.try_into()?)
            .map(|token| Buyer {
                connection: Connection::to(&self.settings.url),
                token,
                bodies: Arc::clone(&bodies),
                paid: self.paid,
                book: &book,
            })
            .collect();
        closed(&mut buyers, WARM_UP).await;
        let warm = book.replace(Book::default());
        let time = self.settings.share(2, 5);
        let before = (database::work(&self.settings.database).await?, metrics::figures(self.processes).await?);
        let meter = self.processes.start()?;
        let began = Instant::now();
        let outcome = closed(&mut buyers, time).await;
        tokio::time::sleep(SETTLE).await;
        let cost = meter.stop()?;
        let work = database::work(&self.settings.database).await?.since(&before.0);
        let figures = [before.1, metrics::figures(self.processes).await?];
        drop(buyers);
        let book = book.into_inner();
        let within = |times: &[Instant]| times.iter().filter(|t| **t <= began + time).count().try_into().unwrap_or(u64::MAX);
        let read_back = self.read_back(&book.orders).await?;
        Ok(Ordered {
            placing: book.placing,
            paying: outcome.latencies,
            placed_in_time: within(&book.placed),
            paid_in_time: within(&book.paid),
            time,
            cost,
            work,
            figures,
            standing: warm.standing + book.standing,
            trouble: book.trouble,
            read_back,
        })
    }

    /// Reads some of the orders through the front door.
    async fn read_back(&self, orders: &[(Uuid, String)]) -> anyhow::Result<String> {
        let step = (orders.len() / SAMPLE).max(1);
        let mut connection = Connection::to(&self.settings.url);
        let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
        for (id, token) in orders.iter().step_by(step).take(SAMPLE) {
            let path = format!("/api/orders/{id}");
            let order: Placed = connection.send(&Ask::get(&path).by(token)).await?.json().context("an order read back")?;
            *statuses.entry(order.status).or_default() += 1;
        }
        Ok(statuses.iter().map(|(status, n)| format!("{n} {status}")).collect::<Vec<_>>().join(", "))
    }
}

/// What the buyers of a load write down.
#[derive(Default)]
struct Book {
    placing: Latencies,
    placed: Vec<Instant>,
    paid: Vec<Instant>,
    orders: Vec<(Uuid, String)>,
    standing: u64,
    trouble: BTreeMap<String, u64>,
}

struct Buyer<'a> {
    connection: Connection,
    token: &'a str,
    bodies: Arc<[String]>,
    paid: &'a Paid,
    book: &'a RefCell<Book>,
}

#[derive(Deserialize)]
struct Placed {
    id: Uuid,
    status: String,
}

#[derive(Deserialize)]
struct Refused {
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    reason: Option<String>,
}

impl Buyer<'_> {
    async fn place(&mut self, n: u64) -> anyhow::Result<Uuid> {
        let index = usize::try_from(n).unwrap_or_default().checked_rem(self.bodies.len()).unwrap_or_default();
        let body = self.bodies.get(index).cloned().unwrap_or_default();
        let began = Instant::now();
        let answer = self.connection.send(&Ask::change(Method::POST, "/api/orders", body).by(self.token)).await?;
        if !answer.status.is_success() {
            if answer.status == StatusCode::TOO_MANY_REQUESTS {
                tokio::time::sleep(answer.retry_after.unwrap_or(Duration::from_secs(1))).await;
            }
            let reason = answer_reason(&answer.body).unwrap_or_else(|| answer.text());
            anyhow::bail!("{} {reason}", answer.status.as_u16());
        }
        let order: Placed = answer.json()?;
        let mut book = self.book.borrow_mut();
        book.placing.add(began.elapsed());
        book.placed.push(Instant::now());
        book.standing += 1;
        Ok(order.id)
    }

    async fn buy(&mut self, n: u64) -> anyhow::Result<()> {
        let order = self.place(n).await?;
        let (end, at) = self.paid.end(order, PATIENCE).await?;
        let mut book = self.book.borrow_mut();
        match end {
            End::Paid => {
                book.paid.push(at);
                book.orders.push((order, self.token.to_owned()));
                Ok(())
            }
            End::Otherwise(event) => {
                book.standing -= 1;
                anyhow::bail!("{event}")
            }
        }
    }
}

impl Caller for Buyer<'_> {
    async fn call(&mut self, n: u64) -> anyhow::Result<()> {
        let result = self.buy(n).await;
        if let Err(error) = &result {
            *self.book.borrow_mut().trouble.entry(format!("{error:#}")).or_default() += 1;
            // a refusal comes back at once: asking again in a tight loop would only measure refusals
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        result
    }
}

fn answer_reason(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Refused>(body).ok()?.details.into_iter().find_map(|d| d.reason)
}

fn rates(spread: &Ordered, hot: &Ordered, (floor, cost): &(Outcome, Cost)) -> Table {
    let mut table = Table::new([
        "load",
        "placed/s",
        "paid/s",
        "of insert",
        "placing p50 ms",
        "p99",
        "p99.9",
        "to PAID p50 ms",
        "p99",
        "p99.9",
        "paid",
        "trouble",
        "others",
    ]);
    let inserts = rate(floor.latencies.count(), floor.time);
    for (name, load) in [("spread", spread), ("hot", hot)] {
        let paid = rate(load.paid_in_time, load.time);
        let mut row = vec![
            name.to_owned(),
            format!("{:.0}", rate(load.placed_in_time, load.time)),
            format!("{paid:.0}"),
            format!("{:.1} %", 100.0 * paid / inserts),
        ];
        row.extend(load.placing.percentiles([500, 990, 999]).map(millis));
        row.extend(load.paying.percentiles([500, 990, 999]).map(millis));
        row.extend([load.paying.count().to_string(), load.trouble.values().sum::<u64>().to_string(), load.cost.others()]);
        table.row(row);
    }
    let mut row = vec!["bare insert".to_owned(), format!("{inserts:.0}"), "-".into(), "100 %".into()];
    row.extend(floor.latencies.percentiles([500, 990, 999]).map(millis));
    row.extend(["-".into(), "-".into(), "-".into(), "-".into(), floor.failed.to_string(), cost.others()]);
    table.row(row);
    table
}

/// CPU of each process for one operation: as measured, and without what it uses when nothing is asked of it.
fn costs(processes: &Processes, idle: &Cost, spread: &Ordered, hot: &Ordered, (floor, floor_cost): &(Outcome, Cost)) -> Table {
    let mut table = Table::new(["CPU ms for one", "spread", "less idle", "hot", "less idle", "insert", "less idle", "idle ms/s"]);
    let loads = [(&spread.cost, spread.paying.count()), (&hot.cost, hot.paying.count()), (floor_cost, floor.latencies.count())];
    let row = |title: &str, names: &[&str]| {
        let mut row = vec![title.to_owned()];
        for (cost, count) in loads {
            row.push(millis_each(names.iter().map(|n| cost.of(n)).sum(), count));
            row.push(millis_each(names.iter().map(|n| cost.less(idle, n)).sum(), count));
        }
        let idling: Duration = names.iter().map(|n| idle.of(n)).sum();
        row.push(format!("{:.1}", idling.as_secs_f64() * 1e3 / idle.time.as_secs_f64()));
        row
    };
    let all: Vec<&str> = processes.list().iter().map(|p| p.name.as_str()).collect();
    for name in &all {
        table.row(row(name, &[name]));
    }
    let inside: Vec<&str> = all.iter().copied().filter(|n| *n != GENERATOR && *n != "provider").collect();
    table.row(row("shop: without generator and provider", &inside));
    table.row(row("everything", &all));
    table
}

fn remarks(loads: &[(&str, &Ordered)]) {
    println!("The last two tables are of `spread`, from PostgreSQL's statistics and from `/metrics`.");
    println!("`less idle`: without what each process used in {} s before, when nothing was asked.", IDLE.as_secs());
    for (name, load) in loads {
        let trouble: Vec<String> = load.trouble.iter().map(|(what, n)| format!("{n} x {what}")).collect();
        let trouble = if trouble.is_empty() { "none".to_owned() } else { trouble.join("; ") };
        println!("{name}: paid orders read back: {}; trouble: {trouble}.", load.read_back);
    }
}
