//! One product that everybody wants: how many reservations a second, through the batcher and with a transaction for each buyer?
//!
//! `DATABASE_URL=postgres://... cargo run --release -p mercato-inventory --example hot [seconds]`. It makes a database of its own and
//! removes it. Both ways are equally durable.

use anyhow::{Context as _, ensure};
use mercato_chassis::{
    error::Fault,
    outbox,
    pg::{self, Db, PgSettings},
    tasks::Tasks,
};
use mercato_inventory::{
    MIGRATIONS,
    app::Reservations,
    domain::{Command, Item, Line, Reservation, Status},
    error::Error,
    events, reconcile, seed,
};
use sqlx::{Connection as _, PgConnection};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use time::OffsetDateTime;
use uuid::Uuid;

const CLIENTS: usize = 64;
const TTL: Duration = Duration::from_secs(15 * 60);
const PLENTY: i64 = 1_000_000_000;
const SCARCE: i64 = 10_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let seconds = std::env::args().nth(1).map_or(Ok(5), |text| text.parse()).context("seconds must be a number")?;
    let server = std::env::var("DATABASE_URL").context("DATABASE_URL names the server")?;
    let (base, _) = server.rsplit_once('/').context("a database url ends in a database")?;
    let name = format!("mercato_bench_inventory_{}", Uuid::now_v7().simple());
    let mut settings = PgSettings::new("inventory", format!("{base}/{name}"));
    // The floor's buyers queue at one row; with the limits of the service most of them would be turned away.
    settings.pool_size = 32;
    settings.acquire_timeout = Duration::from_secs(60);
    settings.lock_timeout = Duration::from_secs(60);
    settings.statement_timeout = Duration::from_secs(60);
    pg::migrate(&settings, Some(&MIGRATIONS)).await?;
    let tasks = Tasks::new();
    let db = Db::connect(&settings, &tasks).await?;
    let outcome = measure(&db, &tasks, Duration::from_secs(seconds)).await;
    tasks.stop();
    ensure!(tasks.drain(Duration::from_secs(10)).await, "a task does not end");
    db.close().await;
    let mut session = PgConnection::connect(&format!("{base}/postgres")).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut session).await?;
    outcome
}

async fn measure(db: &Db, tasks: &Tasks, time: Duration) -> anyhow::Result<()> {
    let products: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    seed(db, &products, |place| if place == 2 { SCARCE } else { PLENTY }, "main").await?;
    let reservations = Reservations::new(db.clone(), tasks, TTL, Arc::new(|_| ()));

    let floor = rate("row lock, a transaction for each buyer", time, |order| {
        let (db, product) = (db.clone(), products[0]);
        async move { row_lock(&db, order, product).await }
    })
    .await?;
    let batched = rate("micro-batch", time, |order| {
        let (reservations, command) = (reservations.clone(), reserve(order, products[1]));
        async move { Ok(reservations.submit(command).await.map(drop)?) }
    })
    .await?;
    println!("ratio {:.1}", batched / floor);
    sell_out(&reservations, products[2]).await?;
    let differences = reconcile(db).await?;
    ensure!(differences.is_empty(), "the ledger does not explain the stock: {differences:?}");
    println!("the ledger explains the stock");
    Ok(())
}

fn reserve(order: Uuid, product: Uuid) -> Command {
    Command::Reserve { order, items: vec![Item { product, quantity: 1 }] }
}

/// What a service without batches does: one transaction for each buyer, which locks the product's row until it is on disk. It even writes
/// less than the batcher: no event of the product.
async fn row_lock(db: &Db, order: Uuid, product: Uuid) -> anyhow::Result<()> {
    db.uow::<_, Fault, _>(move |tx| Box::pin(row_lock_statements(tx, order, product))).await?;
    Ok(())
}

async fn row_lock_statements(tx: &mut PgConnection, order: Uuid, product: Uuid) -> Result<(), Fault> {
    let taken = sqlx::query("UPDATE stock SET available = available - 1, updated_at = now() WHERE product_id = $1 AND available >= 1");
    if taken.bind(product).execute(&mut *tx).await?.rows_affected() != 1 {
        return Err(Fault::Internal("the benchmark ran out of stock".to_owned()));
    }
    let insert = "WITH hold AS (
            INSERT INTO reservation (order_id, status, version, expires_at, created_at, updated_at)
            VALUES ($1, 'ACTIVE', 1, now() + interval '15 minutes', now(), now())
        ), line AS (
            INSERT INTO reservation_line (order_id, product_id, warehouse_id, quantity) VALUES ($1, $2, 'main', 1)
        )
        INSERT INTO stock_ledger (product_id, warehouse_id, level_delta, available_delta, cause, order_id, at)
        VALUES ($2, 'main', 0, -1, 'reserve', $1, now()) RETURNING at";
    let at: OffsetDateTime = sqlx::query_scalar(insert).bind(order).bind(product).fetch_one(&mut *tx).await?;
    let lines = vec![Line { product, warehouse: "main".into(), quantity: 1 }];
    let hold = Reservation { order, status: Status::Active, lines, expires_at: at + TTL, version: 1 };
    outbox::append(tx, &[events::hold(&hold)]).await
}

/// Reservations a second of `CLIENTS` buyers who buy again and again.
async fn rate<F, R>(name: &str, time: Duration, buy: F) -> anyhow::Result<f64>
where
    F: Fn(Uuid) -> R,
    R: Future<Output = anyhow::Result<()>>,
{
    let begin = Instant::now();
    let client = || async {
        let mut waits = Vec::new();
        while begin.elapsed() < time {
            let asked = Instant::now();
            buy(Uuid::now_v7()).await?;
            waits.push(asked.elapsed());
        }
        anyhow::Ok(waits)
    };
    let waits = futures_util::future::try_join_all((0..CLIENTS).map(|_| client())).await?;
    let elapsed = begin.elapsed().as_secs_f64();
    let mut waits = waits.concat();
    waits.sort();
    let rate = waits.len() as f64 / elapsed;
    let (half, most) = (waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
    println!("{name:40} {rate:8.0} reservations/s  p50 {half:8.1?}  p99 {most:8.1?}");
    Ok(rate)
}

/// All buyers buy until nothing is left; exactly the stock must be sold.
async fn sell_out(reservations: &Reservations, product: Uuid) -> anyhow::Result<()> {
    let client = || async {
        let mut sold = 0;
        loop {
            match reservations.submit(reserve(Uuid::now_v7(), product)).await {
                Ok(_) => sold += 1,
                Err(Error::InsufficientStock { .. }) => return anyhow::Ok(sold),
                Err(error) => return Err(error.into()),
            }
        }
    };
    let sold: i64 = futures_util::future::try_join_all((0..CLIENTS).map(|_| client())).await?.into_iter().sum();
    ensure!(sold == SCARCE, "{sold} of {SCARCE} sold");
    println!("sold {sold} of {SCARCE} units to {CLIENTS} clients, none twice");
    Ok(())
}
