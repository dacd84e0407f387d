//! What the tests share.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use mercato_chassis::error::{Code, Fault, ServiceError};
use mercato_chassis::kafka::{self, KafkaSettings};
use mercato_chassis::pg::{self, Db, PgSettings};
use mercato_chassis::tasks::Tasks;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _, StreamConsumer};
use rdkafka::message::{Headers as _, Message as _};
use sqlx::migrate::MigrateDatabase as _;
use time::OffsetDateTime;
use uuid::Uuid;

/// How long to wait for what must come: longer than it takes on any machine. Nobody waits longer than it takes.
pub const LONG: Duration = Duration::from_secs(120);

/// The topics a test may use.
pub const TOPICS: &[&str] = &["things"];

pub fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} must be set: these tests run against real parts (see dev/part)"))
}

/// A database, topics and tasks of one test.
pub struct World {
    pub db: Db,
    pub settings: PgSettings,
    pub kafka: KafkaSettings,
    pub tasks: Tasks,
}

impl World {
    pub async fn sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.db.read()).await.expect(sql);
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.db.read()).await.expect(sql)
    }

    /// Makes the topics; a broker that takes too long is asked again.
    pub async fn topics(&self) {
        eventually("the topics are there", async || kafka::ensure_topics(&self.kafka, TOPICS).await.is_ok()).await;
    }

    /// Waits until a count is reached; panics after [`LONG`].
    pub async fn until(&self, sql: &'static str, wanted: i64) {
        eventually(sql, async || self.count(sql).await == wanted).await;
    }
}

/// Asks again and again until it is so; panics after [`LONG`].
pub async fn eventually(what: &str, so: impl AsyncFn() -> bool) {
    let asked = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, asked).await.unwrap_or_else(|_| panic!("not within {LONG:?}: {what}"));
}

/// Runs a test in a world of its own and clears it away, whatever happened.
pub async fn world<F: Future<Output = ()>>(test: impl FnOnce(std::sync::Arc<World>) -> F) {
    let server = env("DATABASE_URL");
    // As `TestDatabase` names them, so that it sweeps away what a test that was killed left behind.
    let name = format!("mercato_test_{}_chassis_{:016x}", OffsetDateTime::now_utc().unix_timestamp(), rand::random::<u64>());
    let (base, _) = server.rsplit_once('/').expect("DATABASE_URL ends in /database");
    // How long a server may take is not what these tests are about.
    let settings = PgSettings { pool_size: 4, ..PgSettings::new("test", format!("{base}/{name}")).patient(LONG) };
    let mut kafka = KafkaSettings::new(env("KAFKA_BROKERS"), format!("{name}."));
    kafka.partitions = 2;
    let tasks = Tasks::new();
    assert!(pg::pending(&unmigrated(&settings).await, None).await.unwrap());
    pg::migrate(&settings, None).await.unwrap();
    let db = Db::connect(&settings, &tasks).await.unwrap();
    assert!(!pg::pending(db.read(), None).await.unwrap());
    let world = std::sync::Arc::new(World { db: db.clone(), settings: settings.clone(), kafka: kafka.clone(), tasks: tasks.clone() });
    let result = AssertUnwindSafe(test(world)).catch_unwind().await;
    tasks.stop();
    let drained = tasks.drain(LONG).await;
    db.close().await;
    if let Err(error) = kafka::delete_topics(&kafka, TOPICS).await {
        eprintln!("the topics of {name} stay: {error}");
    }
    sqlx::Postgres::force_drop_database(&settings.url).await.unwrap();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
    assert!(drained, "tasks did not end");
    assert!(!tasks.failed(), "a task panicked");
}

async fn unmigrated(settings: &PgSettings) -> sqlx::PgPool {
    sqlx::Postgres::create_database(&settings.url).await.unwrap();
    sqlx::PgPool::connect(&settings.url).await.unwrap()
}

/// One record of a topic as a stranger sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub key: String,
    pub id: String,
    pub kind: String,
    pub sequence: i64,
    pub payload: Vec<u8>,
}

/// Reads everything a topic holds now.
pub async fn read_all(kafka: &KafkaSettings, topic: &str) -> Vec<Seen> {
    let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &kafka.brokers).create().unwrap();
    let (full, partitions) = (format!("{}{topic}", kafka.prefix), kafka.partitions);
    let count = tokio::task::spawn_blocking(move || {
        let held = |partition| client.fetch_watermarks(&full, partition, LONG).map(|(low, high)| high - low);
        (0..partitions).map(|partition| held(partition).unwrap()).sum::<i64>()
    });
    read_topic(kafka, topic, count.await.unwrap() as usize).await
}

/// Reads a topic from its start until `count` records were seen.
pub async fn read_topic(kafka: &KafkaSettings, topic: &str, count: usize) -> Vec<Seen> {
    let client: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.brokers)
        .set("group.id", Uuid::new_v4().to_string())
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    let full = format!("{}{topic}", kafka.prefix);
    client.subscribe(&[&full]).unwrap();
    let mut seen = Vec::new();
    while seen.len() < count {
        let message = tokio::time::timeout(LONG, client.recv()).await;
        let message = message.unwrap_or_else(|_| panic!("{} of {count} records", seen.len())).unwrap();
        let header = |name: &str| {
            let found = message.headers().and_then(|h| h.iter().find(|h| h.key == name)).and_then(|h| h.value);
            String::from_utf8(found.unwrap_or_default().to_vec()).unwrap()
        };
        seen.push(Seen {
            key: String::from_utf8(message.key().unwrap_or_default().to_vec()).unwrap(),
            id: header("ce_id"),
            kind: header("ce_type"),
            sequence: header("ce_sequence").parse().unwrap_or(0),
            payload: message.payload().unwrap_or_default().to_vec(),
        });
    }
    tokio::task::spawn_blocking(move || drop(client)).await.unwrap();
    seen
}

/// The errors of a service.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    #[error("there is none left")]
    SoldOut,
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for TestError {
    fn from(error: sqlx::Error) -> Self {
        TestError::Fault(error.into())
    }
}

impl ServiceError for TestError {
    fn code(&self) -> Code {
        match self {
            TestError::SoldOut => Code::FailedPrecondition,
            TestError::Fault(fault) => fault.code(),
        }
    }
    fn reason(&self) -> &'static str {
        match self {
            TestError::SoldOut => "SOLD_OUT",
            TestError::Fault(fault) => fault.reason(),
        }
    }
    fn domain(&self) -> &'static str {
        "test.mercato"
    }
    fn http_status(&self) -> Option<u16> {
        match self {
            TestError::SoldOut => Some(409),
            TestError::Fault(fault) => fault.http_status(),
        }
    }
    fn fault(&self) -> Option<&Fault> {
        match self {
            TestError::SoldOut => None,
            TestError::Fault(fault) => Some(fault),
        }
    }
}
