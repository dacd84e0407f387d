//! The start of a process.

use async_trait::async_trait;
use mercato_chassis::{
    Context, Fault, Mounted, Platform, Prepared, Role,
    boot::{self, StartError},
    config::{Env, Source},
};
use mercato_testkit::{LONG, Sandbox, TestKeys, eventually};
use sqlx::migrate::{MigrateDatabase as _, Migrator};
use std::sync::Arc;

static MIGRATIONS: Migrator = Migrator::DEFAULT;

/// A role with a database and a setting.
struct Stored;

impl Role for Stored {
    fn name(&self) -> &'static str {
        "stored"
    }

    fn migrations(&self) -> Option<&'static Migrator> {
        Some(&MIGRATIONS)
    }

    fn configure(&self, source: &mut Source) -> Box<dyn Prepared> {
        source.number("STORED_LIMIT", 5, 1..=10, "how many");
        source.secret("STORED_KEY", "a key");
        Box::new(Stored)
    }
}

#[async_trait]
impl Prepared for Stored {
    async fn start(self: Box<Self>, ctx: Context) -> Result<Mounted, Fault> {
        ctx.database()?.ping().await?;
        Ok(Mounted::new())
    }
}

fn platform() -> Platform {
    Platform { roles: vec![Box::new(Stored)], key_source: |_| Arc::new(TestKeys::shared()), topics: &[] }
}

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn refused(selected: &str, env: Env) -> StartError {
    match boot::start(platform(), &[selected.to_owned()], env).await {
        Err(error) => error,
        Ok(_) => panic!("it must not start"),
    }
}

#[tokio::test]
async fn all_wrong_settings_are_told_at_once() {
    let env = env(&[("MERCATO_GRPC_ADDR", "here"), ("STORED_LIMIT", "11"), ("MERCATO_PEER_SECRET", "short"), ("MERCATO_DRAIN_MS", "soon")]);
    let StartError::Config(errors) = refused("all", env).await else { panic!("these are errors of settings") };
    let names: Vec<_> = errors.iter().filter_map(|e| e.split(':').next()).collect();
    for name in [
        "MERCATO_GRPC_ADDR",
        "STORED_LIMIT",
        "STORED_KEY",
        "MERCATO_PEER_SECRET",
        "MERCATO_DRAIN_MS",
        "STORED_DATABASE_URL",
        "KAFKA_BROKERS",
    ] {
        assert!(names.contains(&name), "{name} is not in {errors:#?}");
    }
}

#[tokio::test]
async fn an_unknown_role_is_named() {
    let StartError::Config(errors) = refused("strored", Env::new()).await else { panic!("a wrong role is a wrong setting") };
    assert!(errors.iter().any(|e| e.contains("strored") && e.contains("stored")), "{errors:?}");
}

#[tokio::test]
async fn the_effective_settings_hide_secrets() {
    let secret = "hunter2hunter2hunter2";
    let url = format!("postgres://me:{secret}@db/x");
    let (text, errors) = boot::config(
        &platform(),
        &["all".to_owned()],
        env(&[("STORED_KEY", secret), ("MERCATO_PEER_SECRET", secret), ("DATABASE_URL", &url), ("KAFKA_BROKERS", "k:1")]),
    );
    assert_eq!(errors, Vec::<String>::new());
    assert!(text.contains("STORED_LIMIT=5") && text.contains("STORED_KEY=***") && !text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_database_that_is_behind_is_refused() {
    let server = std::env::var("DATABASE_URL").expect("DATABASE_URL names the real database, see `make up`");
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    let url = format!("{}/mercato_test_{now}_boot_{:08x}", server.rsplit_once('/').unwrap().0, rand::random::<u32>());
    let mut env = env(&[
        ("STORED_KEY", "x"),
        ("MERCATO_PEER_SECRET", "0123456789abcdef"),
        ("STORED_DATABASE_URL", &url),
        ("KAFKA_BROKERS", "127.0.0.1:1"),
    ]);
    let missing = refused("all", env.clone()).await.to_string();
    assert!(missing.contains("mercato migrate"), "{missing}");
    sqlx::Postgres::create_database(&url).await.unwrap();
    // A start that found no time to look says that instead.
    let behind = || async { Some(refused("all", env.clone()).await.to_string()).filter(|why| why.contains("pending migrations")) };
    let behind = eventually("a refusal", LONG, behind).await;
    sqlx::Postgres::force_drop_database(&url).await.unwrap();
    assert!(behind.contains("mercato migrate"), "{behind}");
    env.insert("STORED_DATABASE_URL".into(), "postgres://nobody@127.0.0.1:1/x".into());
    env.insert("MERCATO_START_WAIT_MS".into(), "0".into());
    let gone = refused("all", env).await.to_string();
    assert!(gone.contains("postgres is not available"), "{gone}");
}

#[tokio::test]
async fn a_role_with_stores_starts_and_stops() {
    let sandbox = Sandbox::of(vec![Box::new(Stored)]).env("STORED_KEY", "x").start().await.unwrap();
    let (tables,): (i64,) =
        sqlx::query_as("select count(*) from information_schema.tables where table_name in ('outbox', 'inbox_sequence', 'work')")
            .fetch_one(sandbox.pool("stored").await)
            .await
            .unwrap();
    assert_eq!(tables, 3);
    assert!(sandbox.stop().await);
}
