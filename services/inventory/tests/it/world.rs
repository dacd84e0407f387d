//! An inventory of its own for each test.

use mercato_chassis::{
    error::{Fault, Refusal, ServiceError as _},
    pg::{self, Db, PgSettings},
    tasks::Tasks,
};
use mercato_inventory::{
    MIGRATIONS,
    app::Reservations,
    domain::{Command, Item, Reservation},
    error::Error,
    reconcile, seed,
};
use mercato_testkit::LONG;
use sqlx::{Connection as _, PgConnection};
use std::{sync::Arc, time::Duration};
use time::OffsetDateTime;
use uuid::Uuid;

/// How long a hold lives that is not to end during a test.
pub const HOUR: Duration = Duration::from_secs(3600);

type Answer = Result<Reservation, Error>;

/// A database, and a batcher on it that stands for one process.
pub struct World {
    pub db: Db,
    pub reservations: Reservations,
    tasks: Tasks,
    url: String,
}

/// So many units of a product.
pub fn item(product: Uuid, quantity: i64) -> Item {
    Item { product, quantity }
}

/// The stable name of an error, also of one that an idempotency key remembers.
pub fn reason(error: &Error) -> String {
    match error {
        Error::Fault(Fault::Replayed(status)) => Refusal::of(status).reason,
        error => error.reason().to_owned(),
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with_ttl(HOUR).await
    }

    pub async fn with_ttl(ttl: Duration) -> Self {
        let server = std::env::var("DATABASE_URL").expect("DATABASE_URL names the server for test databases");
        let (base, _) = server.rsplit_once('/').expect("a database url ends in a database");
        // As `TestDatabase` names them, so that it sweeps away what a test that was killed left behind.
        let (now, random) = (OffsetDateTime::now_utc().unix_timestamp(), Uuid::now_v7().as_u64_pair().1);
        let url = format!("{base}/mercato_test_{now}_inventory_{random:016x}");
        // How long a server may take is not what these tests are about.
        let settings = PgSettings::new("inventory", url.clone()).patient(LONG);
        pg::migrate(&settings, Some(&MIGRATIONS)).await.unwrap();
        let tasks = Tasks::new();
        let db = Db::connect(&settings, &tasks).await.unwrap();
        Self::on(db, tasks, url, ttl)
    }

    /// A second process on the same database.
    pub fn sharing(&self, ttl: Duration) -> Self {
        Self::on(self.db.clone(), self.tasks.clone(), self.url.clone(), ttl)
    }

    fn on(db: Db, tasks: Tasks, url: String, ttl: Duration) -> Self {
        let reservations = Reservations::new(db.clone(), &tasks, ttl, Arc::new(|_| ()));
        Self { db, reservations, tasks, url }
    }

    /// The tasks of this process.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Checks what must hold in every state, and removes the database.
    pub async fn end(&self) {
        assert_eq!(reconcile(&self.db).await.unwrap(), []);
        self.tasks.stop();
        assert!(self.tasks.drain(LONG).await, "a task does not end");
        self.db.close().await;
        let (base, name) = self.url.rsplit_once('/').unwrap();
        let mut server = PgConnection::connect(&format!("{base}/postgres")).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).execute(&mut server).await.unwrap();
    }

    /// A new product with so many units in one warehouse.
    pub async fn product(&self, units: i64) -> Uuid {
        let product = Uuid::now_v7();
        seed(&self.db, &[product], |_| units, "main").await.unwrap();
        product
    }

    /// (level, available) over all warehouses.
    pub async fn stock(&self, product: Uuid) -> (i64, i64) {
        let levels = mercato_inventory::store::stock::levels(self.db.read(), product).await.unwrap();
        (levels.iter().map(|level| level.on_hand).sum(), levels.iter().map(|level| level.available).sum())
    }

    pub async fn reserve(&self, order: Uuid, items: &[Item]) -> Answer {
        self.reservations.submit(Command::Reserve { order, items: items.to_vec() }).await
    }

    pub async fn commit(&self, order: Uuid) -> Answer {
        self.reservations.submit(Command::Commit(order)).await
    }

    pub async fn release(&self, order: Uuid) -> Answer {
        self.reservations.submit(Command::Release(order)).await
    }

    pub async fn get(&self, order: Uuid) -> Answer {
        self.reservations.get(order).await
    }

    /// All commands at once; answers in the order of the commands.
    pub async fn submit_all(&self, commands: impl Iterator<Item = Command>) -> Vec<Answer> {
        futures_util::future::join_all(commands.map(|command| self.reservations.submit(command))).await
    }

    /// How many holds are active.
    pub async fn active(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM reservation WHERE status = 'ACTIVE'").fetch_one(self.db.read()).await.unwrap()
    }

    /// A statement behind inventory's back.
    pub async fn tamper(&self, statement: &'static str) -> Result<(), sqlx::Error> {
        let mut session = PgConnection::connect(&self.url).await?;
        sqlx::raw_sql(statement).execute(&mut session).await.map(drop)
    }

    /// Sequence and kind of the events of an aggregate, in order.
    pub async fn events_of(&self, aggregate: Uuid) -> Vec<String> {
        sqlx::query_scalar("SELECT sequence || ' ' || kind FROM outbox WHERE aggregate = $1 AND topic = 'inventory' ORDER BY id")
            .bind(aggregate)
            .fetch_all(self.db.read())
            .await
            .unwrap()
    }

    /// The events of every hold and product are numbered 1, 2, 3 and so on up to its version, in the order they were written.
    pub async fn check_events(&self) {
        let wrong: Vec<Uuid> = sqlx::query_scalar(
            "WITH told AS (
                 SELECT aggregate, array_agg(sequence ORDER BY id) AS sequences FROM outbox WHERE topic = 'inventory' GROUP BY aggregate
             ), versions AS (
                 SELECT order_id AS aggregate, version FROM reservation UNION ALL SELECT product_id, version FROM product_version
             )
             SELECT aggregate FROM versions FULL JOIN told USING (aggregate)
             WHERE sequences IS DISTINCT FROM ARRAY(SELECT generate_series(1, version))",
        )
        .fetch_all(self.db.read())
        .await
        .unwrap();
        assert!(wrong.is_empty(), "events out of sequence: {wrong:?}");
    }
}
