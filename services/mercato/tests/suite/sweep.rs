//! Names for one run, and the removal of what earlier runs left behind.

use anyhow::{Context, Result};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Runs older than this are over.
const OLD: u64 = 3600;
const MARK: &str = "suite_";

/// The name of this run: `suite_<unix seconds>_<random>_`.
pub fn run_name() -> String {
    format!("{MARK}{}_{:08x}_", now(), rand::random::<u32>())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

fn is_old(name: &str) -> bool {
    let began = name.strip_prefix(MARK).and_then(|rest| rest.split('_').next()).and_then(|seconds| seconds.parse::<u64>().ok());
    began.is_some_and(|began| began + OLD < now())
}

/// Drops the databases of earlier runs. One that is in use stays.
pub async fn databases(url: &str) -> Result<()> {
    let mut server = PgConnection::connect(url).await.context("connect to DATABASE_URL")?;
    let names: Vec<String> = sqlx::query_scalar("select datname::text from pg_database where starts_with(datname, $1)")
        .bind(MARK)
        .fetch_all(&mut server)
        .await?;
    for name in names.into_iter().filter(|name| is_old(name)) {
        if let Err(error) = sqlx::query(AssertSqlSafe(format!("drop database if exists \"{name}\""))).execute(&mut server).await {
            eprintln!("{name} stays: {error}");
        }
    }
    Ok(())
}

/// Deletes the topics of earlier runs.
pub async fn topics(brokers: &str) -> Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    let reader: BaseConsumer = config.create()?;
    let metadata = reader.fetch_metadata(None, Duration::from_secs(120)).context("list the topics at KAFKA_BROKERS")?;
    let old: Vec<&str> = metadata.topics().iter().map(|topic| topic.name()).filter(|name| is_old(name)).collect();
    if !old.is_empty() {
        let admin: AdminClient<DefaultClientContext> = config.create()?;
        admin.delete_topics(&old, &AdminOptions::new()).await?;
    }
    Ok(())
}

/// Removes the logs of earlier runs.
pub fn folders(place: &Path) -> Result<()> {
    for entry in std::fs::read_dir(place)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_old) {
            match std::fs::remove_dir_all(entry.path()) {
                // another run sweeps at the same time
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

#[test]
fn only_old_runs_are_swept() {
    assert!(is_old("suite_1000_abcd_catalog"));
    assert!(!is_old(&run_name()));
    assert!(!is_old("mercato_catalog"));
}
