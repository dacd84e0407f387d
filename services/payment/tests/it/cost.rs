//! What an approved order costs the database.

use crate::world::World;
use futures_util::{StreamExt as _, stream};
use mercato_testkit::{Customer, LONG, eventually};
use sqlx::PgPool;

const ORDERS: i64 = 150;
/// Statements an order may cost when batches are as small as on an idle machine.
const MOST: f64 = 35.0;
/// Statements a second without any order: workers and relay look five times a second each, and there are leases, parked events and jobs.
const IDLE: f64 = 20.0;

/// Counts of one statement.
type Statement = (String, i64, f64);

async fn counted(pool: &PgPool) -> Vec<Statement> {
    let select = "select left(regexp_replace(query, '\\s+', ' ', 'g'), 110), calls, total_exec_time from pg_stat_statements
                  where dbid = (select oid from pg_database where datname = current_database()) order by calls desc";
    sqlx::query_as(select).fetch_all(pool).await.expect("statements")
}

/// One by one it was 60 statements an order. `-- --nocapture` prints which; the database must load `pg_stat_statements`.
#[tokio::test(flavor = "multi_thread")]
async fn statements_of_an_approved_order() {
    let world = World::start().await;
    let pool = world.pool().await;
    for statement in [
        "create extension if not exists pg_stat_statements",
        "create table looked (subject uuid)",
        "create function note() returns trigger language plpgsql as 'begin insert into looked values (new.subject); return null; end'",
        "create trigger note after insert on work for each row when (new.kind = 'look_up') execute function note()",
        "select pg_stat_statements_reset(0, (select oid from pg_database where datname = current_database()), 0)",
    ] {
        sqlx::query(statement).execute(pool).await.expect(statement);
    }
    let customer = Customer::new();
    let began = std::time::Instant::now();
    let orders: Vec<_> = stream::iter(0..ORDERS).map(|_| world.place(&customer, "tok_approve")).buffer_unordered(8).collect().await;
    for order in &orders {
        world.until_told(*order, &["payment.initiated", "payment.authorized"]).await;
    }
    stream::iter(&orders).for_each_concurrent(8, |order| world.confirm(*order, &customer)).await;
    for order in &orders {
        world.until_told(*order, &["payment.initiated", "payment.authorized", "payment.processed"]).await;
    }
    eventually("all webhooks", LONG, || async { (world.webhooks() >= 2 * ORDERS as u64).then_some(()) }).await;
    let (took, statements) = (began.elapsed(), counted(pool).await);
    world.at_rest().await;
    let (calls, time) = statements.iter().fold((0, 0.0), |(calls, time), s| (calls + s.1, time + s.2));
    let each = ORDERS as f64;
    println!("{:.2} statements and {:.3} ms of the database an order, {took:?} for {ORDERS}", calls as f64 / each, time / each);
    for (text, calls, time) in statements.iter().take(45) {
        println!("{:7.3} {:8.4} ms  {text}", *calls as f64 / each, time / each);
    }
    let looked: i64 = sqlx::query_scalar("select count(*) from looked").fetch_one(pool).await.expect("count");
    assert_eq!(looked, 0, "an approved order needs no look-up");
    let most = MOST * each + IDLE * took.as_secs_f64();
    assert!((calls as f64) < most, "{calls} statements for {ORDERS} orders in {took:?}");
    world.stop().await;
}
