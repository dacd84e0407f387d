//! Starts a process in the one right order, and stops it in the other.
//!
//! Logging, settings of the chosen roles with all errors at once, stores, a refusal when migrations are pending, roles, listeners,
//! background work, SERVING. On a signal: NOT_SERVING, no new calls, calls end, background work ends, stores and traces close, within a
//! limit that holds whatever a client does.

mod again;
mod archive;
mod console;
mod migrate;
mod running;
mod serve;
mod settings;

pub use again::repeat_events;
pub use archive::{Disagreement, Told, compare_events, empty_topics, place_in_events, restore_events, save_events};
pub use console::{Answer as DatabaseAnswer, ask_database};
pub use migrate::{migrate, migrate_with, open};
pub use running::Running;

use crate::{
    config::{self, Env, Source},
    error::Fault,
    grpc::client::Peers,
    kafka::{self, Answer, KafkaSettings},
    pg::{self, Db, PgSettings},
    redis::Redis,
    role::{Context, Mounted, Platform, Prepared, Role},
    tasks::Tasks,
    telemetry,
    token::{self, KeySource, Verifier},
    work::Wake,
};
use settings::Settings;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use std::{collections::BTreeSet, future::Future, process::ExitCode, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Exit code for wrong settings (EX_USAGE of sysexits.h).
pub const EXIT_CONFIG: u8 = 64;

/// Why a process does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings are wrong; one line each.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    /// Something it needs is not there or not as it must be.
    #[error("{0}")]
    Failed(String),
}

impl From<Fault> for StartError {
    fn from(fault: Fault) -> Self {
        Self::Failed(explain(&fault))
    }
}

impl StartError {
    /// The exit code for it.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(EXIT_CONFIG),
            Self::Failed(_) => ExitCode::FAILURE,
        }
    }
}

fn explain(fault: &Fault) -> String {
    match fault {
        Fault::Unavailable { peer, detail } => format!("{peer} is not available: {detail}"),
        Fault::Db(error) | Fault::Conflict(error) => format!("database error: {error}"),
        other => other.to_string(),
    }
}

/// Runs a future on a runtime with at least two workers: with one, the export of traces can lock up at the end.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(cores.max(2)).enable_all().build();
    runtime.expect("the system gives us threads and an event queue").block_on(future)
}

/// Runs the selected roles (names, or `all`) with the settings of this process until a signal.
pub async fn run(platform: Platform, selected: &[String]) -> ExitCode {
    let running = match start(platform, selected, config::process_env()).await {
        Ok(running) => running,
        Err(error) => {
            for line in error.to_string().lines() {
                eprintln!("error: {line}");
            }
            return error.exit_code();
        }
    };
    telemetry::log_panics();
    tracing::info!(grpc = %running.grpc(), admin = %running.admin(), roles = selected.join(","), "serving");
    let stopping = running.stopping();
    tokio::select! {
        () = signal() => tracing::info!("asked to stop"),
        () = stopping.cancelled() => tracing::error!("stopping after a failure"),
    }
    let hurry = async {
        signal().await;
        tracing::warn!("asked again, ending at once");
    };
    tokio::select! {
        clean = running.shutdown() => if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        () = hurry => ExitCode::FAILURE,
    }
}

async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("signals cannot be received");
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// The effective settings of the selected roles, one `NAME=value  # meaning` a line, secrets masked, and what is wrong with them.
pub fn config(platform: &Platform, selected: &[String], env: Env) -> (String, Vec<String>) {
    let mut source = Source::new(env);
    let roles = select(platform, selected, &mut source);
    Settings::read(&mut source, &roles);
    for role in roles {
        role.configure(&mut source);
    }
    let lines = source.settings().map(|s| format!("{}={}  # {}{}\n", s.name, s.value, s.doc, if s.set { "" } else { " [default]" }));
    (lines.collect(), source.errors().to_vec())
}

fn select<'p>(platform: &'p Platform, selected: &[String], source: &mut Source) -> Vec<&'p dyn Role> {
    let all = || platform.roles.iter().map(AsRef::as_ref);
    for name in selected.iter().filter(|name| *name != "all") {
        if !all().any(|role| role.name() == name) {
            let names: Vec<_> = all().map(|role| role.name()).collect();
            source.refuse("role", format_args!("{name:?} is not one of all, {}", names.join(", ")));
        }
    }
    all().filter(|role| selected.iter().any(|name| name == "all" || name == role.name())).collect()
}

/// Starts the selected roles with these settings; returns when they serve.
///
/// # Errors
/// [`StartError`]; nothing keeps running then.
pub async fn start(platform: Platform, selected: &[String], env: Env) -> Result<Running, StartError> {
    let keys = platform.key_source;
    start_with_keys(platform, selected, env, keys).await
}

/// The same with keys from elsewhere.
///
/// # Errors
/// As [`start`].
pub async fn start_with_keys(
    platform: Platform,
    selected: &[String],
    env: Env,
    keys: impl FnOnce(&Peers) -> Arc<dyn KeySource>,
) -> Result<Running, StartError> {
    let mut source = Source::new(env);
    let roles = select(&platform, selected, &mut source);
    let settings = Settings::read(&mut source, &roles);
    if source.errors().is_empty() {
        telemetry::init(&settings.telemetry).map_err(|e| StartError::Config(vec![e]))?;
    }
    let prepared: Vec<_> = roles.iter().map(|role| (*role, role.configure(&mut source))).collect();
    if !source.errors().is_empty() {
        return Err(StartError::Config(source.errors().to_vec()));
    }
    token::self_test().map_err(|e| StartError::Failed(format!("the signature self test failed: {e}")))?;
    mercato_contracts::validate::warm();
    let tasks = Tasks::new();
    let started = assemble(prepared, keys, &settings, &source, &tasks).await;
    if started.is_err() {
        tasks.stop();
        tasks.drain(Duration::from_secs(5)).await;
    }
    started
}

/// One role that has started.
struct Started {
    name: &'static str,
    db: Option<Db>,
    mounted: Mounted,
}

async fn assemble(
    prepared: Vec<(&dyn Role, Box<dyn Prepared>)>,
    keys: impl FnOnce(&Peers) -> Arc<dyn KeySource>,
    settings: &Settings,
    source: &Source,
    tasks: &Tasks,
) -> Result<Running, StartError> {
    let (inside, connections) = mpsc::channel(64);
    let local: BTreeSet<&'static str> = prepared.iter().map(|(role, _)| role.name()).collect();
    let credentials = settings.credentials();
    let peers = Peers::new(inside, local, source.env(), credentials.clone());
    let redis = settings.redis.as_ref().map(|redis| Redis::new(&redis.url, redis.ca.as_deref())).transpose()?;
    // asked while the databases are connected
    let kafka = tokio::spawn(admitted(settings.stores.kafka.clone(), settings.start_wait));
    let mut started = Vec::new();
    for (role, prepared) in prepared {
        let db = database(role, settings, tasks).await?;
        let ctx = Context {
            role: role.name(),
            wake: db.as_ref().map_or_else(Wake::nobody, Wake::of),
            db: db.clone(),
            redis: redis.clone(),
            peers: peers.seen_from(role.name()),
            tasks: tasks.clone(),
            page_tokens: settings.page_tokens(),
            topic_prefix: settings.stores.kafka.prefix.clone(),
        };
        let mounted = prepared.start(ctx).await.map_err(|e| StartError::Failed(format!("role {}: {}", role.name(), explain(&e))))?;
        started.push(Started { name: role.name(), db, mounted });
    }
    kafka.await.map_err(|error| StartError::Failed(format!("kafka was not asked: {error}")))??;
    let verifier = Verifier::new(&settings.tokens, keys(&peers.seen_from("mercato")));
    let problems = peers.problems();
    if !problems.is_empty() {
        return Err(StartError::Config(problems));
    }
    serve::serve(started, settings, verifier, credentials, connections, tasks).await
}

/// Waits a while for brokers that refuse us to change their mind, as one whose password is being changed does. Brokers that are away are
/// not waited for: orders are taken without them.
async fn admitted(kafka: KafkaSettings, patience: Duration) -> Result<(), StartError> {
    let give_up = Instant::now() + patience;
    loop {
        match if kafka.brokers.is_empty() { Answer::Welcome } else { kafka::knock(&kafka).await } {
            Answer::Welcome => return Ok(()),
            Answer::Silence(reason) => {
                tracing::warn!(reason, "kafka is not there yet");
                return Ok(());
            }
            Answer::Refused(reason) if Instant::now() >= give_up => {
                return Err(unwanted(&kafka, &reason));
            }
            Answer::Refused(reason) => {
                tracing::warn!(protocol = kafka.security.protocol(), reason, "kafka refuses us, trying again");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

fn unwanted(kafka: &KafkaSettings, reason: &str) -> StartError {
    StartError::Failed(format!("kafka refuses us (KAFKA_SECURITY_PROTOCOL={}): {reason}", kafka.security.protocol()))
}

async fn reach(pg: &PgSettings) -> Result<(), Fault> {
    Ok(connected(pg.plain()).await?.close().await?)
}

/// A session outside of any pool.
async fn connected(options: Result<PgConnectOptions, Fault>) -> Result<PgConnection, Fault> {
    let connecting = async { Ok(options?.connect().await?) };
    let late = |_| Fault::Unavailable { peer: "postgres".into(), detail: "it does not answer".into() };
    tokio::time::timeout(Duration::from_secs(3), connecting).await.map_err(late)?
}

/// Connects a role's database, waiting a while for it to come up, and refuses one that is behind.
async fn database(role: &dyn Role, settings: &Settings, tasks: &Tasks) -> Result<Option<Db>, StartError> {
    let Some(migrations) = role.migrations() else { return Ok(None) };
    let pg = settings.stores.database(role.name());
    let db = connect(&pg, settings.start_wait, tasks).await?;
    if pg::pending(db.read(), Some(migrations)).await? {
        let name = role.name();
        return Err(StartError::Failed(format!("the database of role {name} has pending migrations: run `mercato migrate --role {name}`")));
    }
    Ok(Some(db))
}

async fn connect(pg: &PgSettings, patience: Duration, tasks: &Tasks) -> Result<Db, StartError> {
    let give_up = Instant::now() + patience;
    loop {
        // A session of its own first: a pool keeps the cause of a failure to itself. The pool may still be too slow over a slow link.
        let connected = match reach(pg).await {
            Ok(()) => Db::connect(pg, tasks).await,
            Err(fault) => Err(fault),
        };
        match connected {
            Ok(db) => return Ok(db),
            // A missing database does not come by waiting.
            Err(fault) if missing(&fault) => return Err(unreached(pg, &fault, ": run `mercato migrate`")),
            Err(fault) => try_later(pg, &fault, give_up).await?,
        }
    }
}

/// Waits a while for the server of a role's database, which itself may be missing.
async fn answering(pg: &PgSettings, patience: Duration) -> Result<(), StartError> {
    let give_up = Instant::now() + patience;
    loop {
        match reach(pg).await {
            Err(fault) if !missing(&fault) => try_later(pg, &fault, give_up).await?,
            _ => return Ok(()),
        }
    }
}

/// A pause before the next try, or the end of patience.
async fn try_later(pg: &PgSettings, fault: &Fault, give_up: Instant) -> Result<(), StartError> {
    if Instant::now() >= give_up {
        return Err(unreached(pg, fault, ""));
    }
    tracing::warn!(role = pg.role, error = explain(fault), "waiting for the database");
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

fn missing(fault: &Fault) -> bool {
    matches!(fault, Fault::Db(error) if error.as_database_error().and_then(|cause| cause.code()).as_deref() == Some("3D000"))
}

fn unreached(pg: &PgSettings, fault: &Fault, hint: &str) -> StartError {
    StartError::Failed(format!("the database of role {}: {}{hint}", pg.role, explain(fault)))
}
