//! The floor of a reservation: one transaction a reservation that locks the product's row, in tables of the same shape, as a service
//! without batches has it. Five round trips: begin, take the unit, write the hold, write the event, commit.

use crate::floor::scratch;
use crate::load::{Caller, closed};
use crate::measured::Measured;
use crate::processes::Processes;
use anyhow::Context;
use mercato_contracts::mercato::inventory::v1::{InventoryReserved, Reservation, ReservationItem, ReservationStatus};
use prost::Message;
use sqlx::{Connection, Executor, PgConnection};
use std::time::Duration;
use uuid::Uuid;

const CHASSIS: &str = include_str!("../../services/chassis/migrations/0001_chassis.sql");
const INVENTORY: &str = include_str!("../../services/inventory/migrations/0001_stock.sql");
const WARM_UP: Duration = Duration::from_millis(500);
const TAKE: &str = "update stock set available = available - 1, updated_at = now() where product_id = $1 and available >= 1";
/// Hold, line and ledger row go down in one statement; the service writes no less.
const HOLD: &str = "with hold as (
        insert into reservation (order_id, status, version, expires_at, created_at, updated_at)
        values ($1, 'ACTIVE', 1, now() + interval '15 minutes', now(), now())
    ), line as (
        insert into reservation_line (order_id, product_id, warehouse_id, quantity) values ($1, $2, 'main', 1)
    )
    insert into stock_ledger (product_id, warehouse_id, level_delta, available_delta, cause, order_id, at)
    values ($2, 'main', 0, -1, 'reserve', $1, now())";
const EVENT: &str = "insert into outbox (shard, event_id, topic, kind, aggregate, sequence, payload)
    values ($1, $2, 'inventory', 'inventory.reserved', $3, 1, $4)";

/// Reserves for `time` with as many clients, each with a connection of its own.
pub async fn measure(server: &str, processes: &Processes, clients: usize, time: Duration) -> anyhow::Result<Measured> {
    scratch(server, async |url| {
        let mut callers = Vec::with_capacity(clients);
        let product = Uuid::now_v7();
        for _ in 0..clients {
            callers.push(Buyer { connection: PgConnection::connect(&url).await?, product });
        }
        let setup = &mut callers.first_mut().context("no client")?.connection;
        setup.execute(sqlx::raw_sql(CHASSIS)).await.context("the chassis' tables")?;
        setup.execute(sqlx::raw_sql(INVENTORY)).await.context("the inventory's tables")?;
        let stock = "insert into stock (product_id, warehouse_id, on_hand, available, updated_at) values ($1, 'main', 1e9, 1e9, now())";
        sqlx::query(stock).bind(product).execute(&mut *setup).await?;
        closed(&mut callers, WARM_UP).await;
        let before = sold(&mut callers, product).await?;
        let meter = processes.start()?;
        let outcome = closed(&mut callers, time).await;
        let measured = Measured { name: "row lock".into(), outcome, cost: meter.stop()? };
        let sold = sold(&mut callers, product).await? - before;
        anyhow::ensure!(i64::try_from(measured.count()) == Ok(sold), "the floor sold {sold} units for {} answers", measured.count());
        Ok(measured)
    })
    .await
}

async fn sold(callers: &mut [Buyer], product: Uuid) -> anyhow::Result<i64> {
    let connection = &mut callers.first_mut().context("no client")?.connection;
    let select = "select on_hand - available from stock where product_id = $1";
    Ok(sqlx::query_scalar(select).bind(product).fetch_one(connection).await?)
}

struct Buyer {
    connection: PgConnection,
    product: Uuid,
}

impl Caller for Buyer {
    async fn call(&mut self, _: u64) -> anyhow::Result<()> {
        let order = Uuid::now_v7();
        let connection = &mut self.connection;
        connection.execute("begin").await?;
        let taken = sqlx::query(TAKE).bind(self.product).execute(&mut *connection).await?;
        anyhow::ensure!(taken.rows_affected() == 1, "the floor ran out of stock");
        sqlx::query(HOLD).bind(order).bind(self.product).execute(&mut *connection).await?;
        let event = sqlx::query(EVENT).bind(i16::from(order.as_bytes()[15] % 16)).bind(Uuid::now_v7()).bind(order);
        event.bind(payload(order, self.product)).execute(&mut *connection).await?;
        connection.execute("commit").await?;
        Ok(())
    }
}

fn payload(order: Uuid, product: Uuid) -> Vec<u8> {
    let items = vec![ReservationItem { product_id: product.to_string(), quantity: 1 }];
    let status = ReservationStatus::Active.into();
    let reservation = Reservation { order_id: order.to_string(), items, status, ..Reservation::default() };
    InventoryReserved { reservation: Some(reservation) }.encode_to_vec()
}
