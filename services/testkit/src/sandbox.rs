//! Roles in process, on databases and topics of their own.

use crate::{
    LONG, Parts, Patient, PeerActor, TestKeys,
    database::{self, Dropped, blocking},
};
use anyhow::Context as _;
use async_trait::async_trait;
use mercato_chassis::{
    Platform, Prepared, Role,
    boot::{self, Running, StartError},
    config::{self, Env},
    error::Fault,
    grpc::client::Peers,
    kafka::{self, KafkaSettings},
    pg::{Db, PgSettings},
    role::Again,
    tasks::Tasks,
    token::KeySource,
};
use serde_json::{Value, json};
use sqlx::{PgPool, migrate::Migrator};
use std::{collections::HashMap, net::SocketAddr, sync::Arc};
use tokio::sync::OnceCell;
use tonic::transport::{Channel, Endpoint};

/// The topics a sandbox has unless told otherwise.
pub const TOPICS: &[&str] = &["orders", "inventory", "payments", "catalog", "customers"];

type Keys = fn(&Peers) -> Arc<dyn KeySource>;

/// How often a sandbox tries to start: what a busy store had no time for the first time is done the next time.
const STARTS: usize = 5;

/// A sandbox to be.
pub struct Builder {
    roles: Vec<Arc<dyn Role>>,
    env: Env,
    topics: &'static [&'static str],
    keys: Option<Keys>,
}

/// Roles that run in this process through the same code as in production, reachable on a free port.
pub struct Sandbox {
    running: Option<Running>,
    grpc: SocketAddr,
    channel: Channel,
    secret: String,
    urls: HashMap<&'static str, String>,
    pools: HashMap<&'static str, OnceCell<PgPool>>,
    databases: Vec<Dropped>,
    topics: Option<Topics>,
    env: Env,
}

struct Topics {
    settings: KafkaSettings,
    names: &'static [&'static str],
}

impl Builder {
    /// Sets a variable of the sandbox's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Has only these topics.
    #[must_use]
    pub fn topics(mut self, topics: &'static [&'static str]) -> Self {
        self.topics = topics;
        self
    }

    /// Accepts tokens of these keys beside those of [`TestKeys::shared`].
    #[must_use]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Makes databases and topics and starts the roles.
    ///
    /// # Errors
    /// What keeps them from starting.
    pub async fn start(self) -> anyhow::Result<Sandbox> {
        let stored = self.roles.iter().any(|role| role.migrations().is_some());
        let secret = format!("{:032x}", rand::random::<u128>());
        let mut env: Env = [
            ("MERCATO_GRPC_ADDR", "127.0.0.1:0"),
            ("MERCATO_ADMIN_ADDR", "127.0.0.1:0"),
            ("MERCATO_DRAIN_MS", "60000"),
            ("MERCATO_LOG", "warn"),
            ("MERCATO_TOPIC_PARTITIONS", "2"),
            ("MERCATO_PEER_SECRET", &secret),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        let (mut urls, mut databases, mut topics) = (HashMap::new(), Vec::new(), None);
        if stored {
            let parts = Parts::from_env()?;
            let prefix = format!("t{:08x}.", rand::random::<u32>());
            topics = Some(Topics { settings: KafkaSettings::new(&parts.kafka_brokers, prefix.as_str()), names: self.topics });
            env.extend([("MERCATO_TOPIC_PREFIX".into(), prefix), ("KAFKA_BROKERS".into(), parts.kafka_brokers)]);
            env.extend(parts.redis_url.map(|url| ("REDIS_URL".into(), url)));
            for role in self.roles.iter().filter(|role| role.migrations().is_some()) {
                let (settings, dropped) = database::create(role.name(), role.migrations()).await?;
                env.insert(format!("{}_DATABASE_URL", role.name().to_uppercase()), settings.url.clone());
                urls.insert(role.name(), settings.url);
                databases.push(dropped);
            }
        }
        env.extend(self.env);
        let running = start(&self.roles, self.topics, self.keys, &env, stored).await.context("the roles of the sandbox")?;
        let grpc = running.grpc();
        let channel = Endpoint::from_shared(format!("http://{grpc}"))?.connect_lazy();
        let pools = urls.keys().map(|role| (*role, OnceCell::new())).collect();
        Ok(Sandbox { running: Some(running), grpc, channel, secret, urls, pools, databases, topics, env })
    }
}

/// Makes the topics and starts the roles; again when a store had no time for it.
async fn start(
    roles: &[Arc<dyn Role>],
    topics: &'static [&'static str],
    more: Option<Keys>,
    env: &Env,
    stored: bool,
) -> Result<Running, StartError> {
    let all = ["all".to_owned()];
    let mut starts = 1;
    loop {
        let roles = roles.iter().map(|role| Box::new(Shared(role.clone())) as Box<dyn Role>).collect();
        let platform = Platform { roles, key_source: |_| Arc::new(TestKeys::shared()), topics };
        let keys = move |peers: &Peers| -> Arc<dyn KeySource> { Arc::new(BothKeys(more.map(|keys| keys(peers)))) };
        let started = async {
            if stored {
                boot::migrate_with(&platform, &all, env.clone()).await?;
            }
            boot::start_with_keys(platform, &all, env.clone(), keys).await
        };
        match started.await {
            Err(StartError::Failed(why)) if stored && starts < STARTS => eprintln!("the sandbox starts again: {why}"),
            started => return started,
        }
        starts += 1;
    }
}

/// A role that can be started again.
struct Shared(Arc<dyn Role>);

impl Role for Shared {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn migrations(&self) -> Option<&'static Migrator> {
        self.0.migrations()
    }

    fn sequences(&self) -> &'static [(&'static str, &'static str)] {
        self.0.sequences()
    }

    fn counts(&self) -> &'static [(&'static str, &'static str)] {
        self.0.counts()
    }

    fn again(&self) -> &'static [Again] {
        self.0.again()
    }

    fn configure(&self, source: &mut config::Source) -> Box<dyn Prepared> {
        self.0.configure(source)
    }
}

impl Sandbox {
    /// A sandbox of these roles; fakes are [`crate::Fake`]s.
    pub fn of(roles: Vec<Box<dyn Role>>) -> Builder {
        Builder { roles: roles.into_iter().map(Arc::from).collect(), env: Env::new(), topics: TOPICS, keys: None }
    }

    /// A channel to it, for generated clients.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The same for tests that are not about time: calls that may be repeated are, while the machine is too busy to answer them.
    pub fn patient(&self) -> Patient {
        Patient::over(self.channel())
    }

    /// Where it serves gRPC.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where it serves metrics and probes.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.running.as_ref().map(Running::admin)
    }

    /// Where a role serves HTTP of its own.
    pub fn http(&self, role: &str) -> Option<SocketAddr> {
        self.running.as_ref().and_then(|running| running.http(role))
    }

    /// Another role, as far as the sandbox can tell.
    pub fn peer(&self, role: &'static str) -> PeerActor {
        PeerActor::new(role, &self.secret)
    }

    /// The environment it runs with.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The URL of a role's database.
    ///
    /// # Panics
    /// When the role is not in the sandbox or has no database.
    pub fn database_url(&self, role: &str) -> &str {
        self.urls.get(role).unwrap_or_else(|| panic!("role {role} has no database in this sandbox"))
    }

    /// A small pool to look into a role's database.
    ///
    /// # Panics
    /// When the role is not in the sandbox or its database cannot be reached.
    pub async fn pool(&self, role: &str) -> &PgPool {
        let url = self.database_url(role);
        let connect = || async { sqlx::postgres::PgPoolOptions::new().max_connections(2).acquire_timeout(LONG).connect(url).await };
        let pool = self.pools.get(role).unwrap_or_else(|| panic!("role {role} has no database in this sandbox"));
        pool.get_or_try_init(connect).await.unwrap_or_else(|error| panic!("the database of {role}: {error}"))
    }

    /// A role's database as the role itself uses it, but with time for everything.
    ///
    /// # Panics
    /// When the role is not in the sandbox or has no database, or it cannot be reached.
    pub async fn db(&self, role: &str) -> Db {
        let settings = PgSettings::new(role, self.database_url(role)).patient(LONG);
        Db::connect(&settings, &Tasks::new()).await.unwrap_or_else(|error| panic!("the database of {role}: {error}"))
    }

    /// Ends it as a signal would. Returns whether all work ended by itself in time.
    pub async fn stop(mut self) -> bool {
        match self.running.take() {
            Some(running) => running.shutdown().await,
            None => true,
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stopping().cancel();
        }
        self.databases.clear();
        if let Some(Topics { settings, names }) = self.topics.take() {
            blocking("delete-test-topics", async move { Ok(kafka::delete_topics(&settings, names).await?) });
        }
    }
}

/// The test keys, and those of a role that signs.
struct BothKeys(Option<Arc<dyn KeySource>>);

#[async_trait]
impl KeySource for BothKeys {
    async fn json_web_keys(&self) -> Result<String, Fault> {
        let mut keys = vec![TestKeys::shared().json_web_key()];
        if let Some(more) = &self.0 {
            let set: Value = serde_json::from_str(&more.json_web_keys().await?).map_err(|e| Fault::Internal(e.to_string()))?;
            keys.extend(set["keys"].as_array().cloned().unwrap_or_default());
        }
        Ok(json!({"keys": keys}).to_string())
    }
}
