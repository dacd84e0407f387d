//! Databases, tables and topics.

use super::{
    StartError, admitted, answering, connect, select,
    settings::{Stores, start_wait},
};
use crate::{
    config::{self, Env, Source},
    error::Fault,
    kafka::{self, KafkaSettings},
    pg,
    role::Platform,
    tasks::Tasks,
    telemetry,
};
use std::time::Duration;
use tokio::time::Instant;

/// Prepares the stores of the selected roles with the settings of this process: creates missing databases, applies migrations, creates
/// missing topics. May be repeated and may run at several places at once. Waits a while for stores that are not there yet.
///
/// # Errors
/// [`StartError`].
pub async fn migrate(platform: Platform, selected: &[String]) -> Result<(), StartError> {
    migrate_with(&platform, selected, config::process_env()).await
}

/// The same with other settings.
///
/// # Errors
/// [`StartError`].
pub async fn migrate_with(platform: &Platform, selected: &[String], env: Env) -> Result<(), StartError> {
    let mut source = Source::new(env);
    let roles = select(platform, selected, &mut source);
    let stores = Stores::read(&mut source, &roles);
    let patience = start_wait(&mut source);
    let logs = telemetry::Settings::read(&mut source, "mercato-migrate".into());
    if !source.errors().is_empty() {
        return Err(StartError::Config(source.errors().to_vec()));
    }
    telemetry::init(&logs).map_err(|e| StartError::Config(vec![e]))?;
    for role in &roles {
        if let Some(migrations) = role.migrations() {
            answering(&stores.database(role.name()), patience).await?;
            pg::migrate(&stores.database(role.name()), Some(migrations)).await?;
            tracing::info!(role = role.name(), "migrated");
        }
    }
    if !platform.topics.is_empty() && roles.iter().any(|role| role.migrations().is_some()) {
        // the brokers' own words: making topics would only say that it took too long
        admitted(stores.kafka.clone(), patience).await?;
        make_topics(&stores.kafka, platform.topics, patience).await?;
        tracing::info!(topics = platform.topics.join(","), "topics are there");
    }
    Ok(())
}

async fn make_topics(kafka: &KafkaSettings, topics: &[&str], patience: Duration) -> Result<(), Fault> {
    let give_up = Instant::now() + patience;
    loop {
        match kafka::ensure_topics(kafka, topics).await {
            Err(fault @ Fault::Unavailable { .. }) if Instant::now() < give_up => {
                tracing::warn!(%fault, "waiting for the brokers");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            done => return done,
        }
    }
}

/// Opens the database of one role with the settings in `env`, for tools that fill it; the role need not run. Waits a while for it.
///
/// # Errors
/// [`StartError`], also when the role is unknown or has no database.
pub async fn open(platform: &Platform, role: &'static str, env: Env, tasks: &Tasks) -> Result<pg::Db, StartError> {
    let mut source = Source::new(env);
    let roles = select(platform, &[role.to_owned()], &mut source);
    let (stores, patience) = (Stores::read(&mut source, &roles), start_wait(&mut source));
    if !source.errors().is_empty() {
        return Err(StartError::Config(source.errors().to_vec()));
    }
    connect(&stores.database(role), patience, tasks).await
}
