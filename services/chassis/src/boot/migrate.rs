//! Databases, tables and topics.

use super::{StartError, select, settings::Stores, unwanted};
use crate::{
    config::{self, Env, Source},
    kafka::{self, Answer},
    pg,
    role::Platform,
    tasks::Tasks,
    telemetry,
};

/// Prepares the stores of the selected roles with the settings of this process: creates missing databases, applies migrations, creates
/// missing topics. May be repeated and may run at several places at once.
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
    let logs = telemetry::Settings::read(&mut source, "mercato-migrate".into());
    if !source.errors().is_empty() {
        return Err(StartError::Config(source.errors().to_vec()));
    }
    telemetry::init(&logs).map_err(|e| StartError::Config(vec![e]))?;
    for role in &roles {
        if let Some(migrations) = role.migrations() {
            pg::migrate(&stores.database(role.name()), Some(migrations)).await?;
            tracing::info!(role = role.name(), "migrated");
        }
    }
    if !platform.topics.is_empty() && roles.iter().any(|role| role.migrations().is_some()) {
        // the brokers' own words: making topics would only say that it took too long
        if let Answer::Refused(reason) = kafka::knock(&stores.kafka).await {
            return Err(unwanted(&stores.kafka, &reason));
        }
        kafka::ensure_topics(&stores.kafka, platform.topics).await?;
        tracing::info!(topics = platform.topics.join(","), "topics are there");
    }
    Ok(())
}

/// Opens the database of one role with the settings in `env`, for tools that fill it; the role need not run.
///
/// # Errors
/// [`StartError`], also when the role is unknown or has no database.
pub async fn open(platform: &Platform, role: &'static str, env: Env, tasks: &Tasks) -> Result<pg::Db, StartError> {
    let mut source = Source::new(env);
    let roles = select(platform, &[role.to_owned()], &mut source);
    let stores = Stores::read(&mut source, &roles);
    if !source.errors().is_empty() {
        return Err(StartError::Config(source.errors().to_vec()));
    }
    Ok(pg::Db::connect(&stores.database(role), tasks).await?)
}
