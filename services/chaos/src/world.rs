//! The shop under attack: parts, provider, executable and edge of its own, on free ports and in a folder of its own.

pub(crate) use crate::form::role_of;
use crate::{
    clocks::{self, Skewed, Wrong},
    facts::Leak,
    process::{Env, Ports, answers, finish, signal, spawn},
    proxy::Proxy,
    scan::Canary,
};
pub use crate::{
    form::{Form, ROLES, STORES, Target},
    programs::Programs,
};
use anyhow::{Context, Result, bail};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{process::Child, sync::Mutex};

/// How long a process may take to come up, on a busy machine of any speed.
const START: Duration = Duration::from_secs(300);
/// Processes with a gateway's HTTP face beside another's.
const SECOND_GATEWAYS: [&str; 2] = ["second", "gateway-2"];
const WEBHOOK_SECRET: &str = "MERCATO_PROVIDER_WEBHOOK_SECRET";
const PARTS: [Target; 3] = [Target::Postgres, Target::Redis, Target::Kafka];

/// Where everything listens on loopback.
#[derive(Debug)]
struct Doors {
    _block: Ports,
    postgres: u16,
    redis: u16,
    kafka: u16,
    envoy: u16,
    envoy_admin: u16,
    provider: u16,
    http: u16,
    grpc: HashMap<&'static str, u16>,
    admin: HashMap<&'static str, u16>,
}

/// The running shop. [`World::end`] stops it; dropping it kills it.
pub struct World {
    state: PathBuf,
    programs: Programs,
    ports: Doors,
    env: Env,
    services: Vec<&'static str>,
    children: Mutex<HashMap<Target, Child>>,
    /// Every process whose clock can be moved, also those that ended.
    moved: std::sync::Mutex<Vec<u32>>,
    /// The link between the roles and PostgreSQL.
    pub database_link: Proxy,
    /// The link between payment and the provider.
    pub provider_link: Proxy,
    /// Login with every role: e-mail and password.
    pub staff: (String, String),
    /// Secrets that were planted, to be looked for at the end.
    pub canaries: std::sync::Mutex<Vec<Canary>>,
    /// Secrets that were seen where they must not be before the end.
    pub leaks: std::sync::Mutex<Vec<Leak>>,
    /// What services that are started from now on are told besides.
    pub(crate) besides: std::sync::Mutex<Env>,
    keep: bool,
}

impl World {
    /// Starts everything in the folder `state`, which must not exist yet.
    ///
    /// # Errors
    /// What did not start, with the end of its log.
    pub async fn start(programs: Programs, state: &Path, form: Form, more: &Env) -> Result<Self> {
        std::fs::create_dir_all(state.join("logs")).with_context(|| format!("create {}", state.display()))?;
        let programs = programs.keep(state)?;
        let services = form.services();
        let ports = doors(&services);
        let (database_link, provider_link) = (Proxy::start(ports.postgres).await?, Proxy::start(ports.provider).await?);
        let staff = ("staff@example.com".to_owned(), secret());
        let mut world = Self {
            state: state.to_owned(),
            programs,
            ports,
            env: Env::new(),
            services,
            children: Mutex::default(),
            moved: std::sync::Mutex::default(),
            database_link,
            provider_link,
            staff,
            canaries: std::sync::Mutex::default(),
            leaks: std::sync::Mutex::default(),
            besides: std::sync::Mutex::new(crate::planted::chosen()),
            keep: false,
        };
        clocks::set(&world.state, "postgres", 0)?;
        for part in PARTS {
            world.launch(part).await?;
        }
        world.env = world.environment(form, more)?;
        world.migrate().await?;
        finish(&world.log("seed"), &world.programs.mercato, &["seed", "--products", "1"], &world.direct()?).await?;
        world.launch(Target::Provider).await?;
        let services = world.services.clone();
        for name in &services {
            clocks::set(&world.state, name, 0)?;
            world.launch(Target::Service(name)).await?;
        }
        for name in &services {
            world.ready(Target::Service(name)).await?;
        }
        world.ready(Target::Provider).await?;
        world.launch(Target::Envoy).await?;
        world.ready(Target::Envoy).await?;
        answers(&format!("{}/api/products?pageSize=1", world.edge()), false, START, &world.log("envoy")).await?;
        Ok(world)
    }

    /// Runs the migrate command of the executable under attack.
    ///
    /// # Errors
    /// When it fails; the end of its log is in the error.
    pub(crate) async fn migrate(&self) -> Result<()> {
        finish(&self.log("migrate"), &self.programs.mercato, &["migrate"], &self.direct()?).await
    }

    /// What a process is told that reaches PostgreSQL past the link.
    fn direct(&self) -> Result<Env> {
        let mut env = self.env.clone();
        env.insert("DATABASE_URL".to_owned(), self.database_url("postgres")?);
        Ok(env)
    }

    /// The edge, `http://host:port`.
    pub fn edge(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.envoy)
    }

    /// The provider itself, past its link.
    pub fn provider(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.provider)
    }

    /// The broker, `host:port`.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.ports.kafka)
    }

    /// Where a role or the executable serves gRPC.
    pub fn grpc_port(&self, service: &str) -> u16 {
        self.ports.grpc.get(service).or_else(|| self.ports.grpc.get("mercato")).copied().unwrap_or_default()
    }

    /// The processes the roles run in.
    pub fn services(&self) -> &[&'static str] {
        &self.services
    }

    /// The folder with the logs.
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// The URL of a database, past the link.
    ///
    /// # Errors
    /// When PostgreSQL's password cannot be read.
    pub fn database_url(&self, database: &str) -> Result<String> {
        let file = self.state.join("data/postgres.password");
        let password = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(format!("postgres://mercato:{}@127.0.0.1:{}/{database}", password.trim(), self.ports.postgres))
    }

    /// The secrets the processes were told: of peers, keys, webhooks and the database.
    pub fn secrets(&self) -> Vec<String> {
        let names = ["MERCATO_PEER_SECRET", "MERCATO_KEY_SECRET", WEBHOOK_SECRET];
        let mut secrets: Vec<String> = names.iter().filter_map(|name| self.env.get(*name).cloned()).collect();
        let url = self.env.get("DATABASE_URL");
        secrets.extend(url.and_then(|url| Some(url.split_once("mercato:")?.1.split_once('@')?.0.to_owned())));
        secrets
    }

    /// What the provider signs its webhooks with.
    pub fn webhook_secret(&self) -> &str {
        self.env.get(WEBHOOK_SECRET).map_or("", String::as_str)
    }

    /// Each service's metrics, by its name.
    pub fn metrics(&self) -> Vec<(&'static str, String)> {
        self.ports.admin.iter().map(|(name, port)| (*name, format!("http://127.0.0.1:{port}/metrics"))).collect()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.state.join(format!("logs/{name}.log"))
    }

    fn environment(&self, form: Form, more: &Env) -> Result<Env> {
        let direct = self.database_url("postgres")?;
        let through = direct.replace(&format!(":{}/", self.ports.postgres), &format!(":{}/", self.database_link.port()));
        let local = |port: u16| format!("127.0.0.1:{port}");
        let ports = &self.ports;
        let mut env: Env = [
            ("DATABASE_URL", through),
            ("REDIS_URL", format!("redis://{}", local(ports.redis))),
            ("KAFKA_BROKERS", self.brokers()),
            ("MERCATO_PEER_SECRET", secret()),
            ("MERCATO_KEY_SECRET", hex(32)),
            (WEBHOOK_SECRET, secret()),
            ("MERCATO_PROVIDER_URL", format!("http://{}", local(self.provider_link.port()))),
            ("MERCATO_PROVIDER_WEBHOOK_URL", format!("{}/api/payments/webhooks/dev", self.edge())),
            ("MERCATO_GATEWAY_HTTP_ADDR", local(ports.http)),
            ("MERCATO_EDGE_ADDR", local(ports.envoy)),
            ("MERCATO_EDGE_ADMIN_ADDR", local(ports.envoy_admin)),
            ("STAFF_EMAIL", self.staff.0.clone()),
            ("STAFF_PASSWORD", self.staff.1.clone()),
            ("MERCATO_TOPIC_PARTITIONS", "3".into()),
            // one address sends everything
            ("MERCATO_RATE_AUTH_PER_SECOND", "10000".into()),
            ("MERCATO_RATE_AUTH_BURST", "100000".into()),
            ("MERCATO_RATE_ANONYMOUS_PER_SECOND", "10000".into()),
            ("MERCATO_RATE_ANONYMOUS_BURST", "100000".into()),
            ("MERCATO_RATE_WRITE_PER_SECOND", "10000".into()),
            ("MERCATO_RATE_WRITE_BURST", "100000".into()),
            // waits for a lost answer shrunk to the length of a run
            ("MERCATO_PROVIDER_TIMEOUT_MS", "2000".into()),
            ("MERCATO_PROVIDER_LOOKUP_TIMEOUT_MS", "1000".into()),
            ("MERCATO_PAYMENT_SETTLE_MS", "3000".into()),
            ("MERCATO_PAYMENT_LOOKUP_SCALE_PERCENT", "5".into()),
            ("MERCATO_PAYMENT_DEADLINE_MS", "40000".into()),
            ("MERCATO_RESERVATION_TTL_MS", "45000".into()),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        if matches!(form, Form::Twins | Form::Pairs) {
            // in which the edge must have looked twice; the twins are for a test that holds on a busy machine
            let millis = if form == Form::Twins { "10000" } else { "3000" };
            env.insert("MERCATO_LAME_DUCK_MS".into(), millis.into());
        }
        if form.divided() {
            env.insert("MERCATO_EDGE_SPLIT".into(), "1".into());
            let urls = |role: &str| {
                let doors = self.doors_of(role).into_iter().map(|door| format!("http://{door}"));
                doors.collect::<Vec<_>>().join(",")
            };
            env.extend(ROLES.iter().map(|role| (format!("MERCATO_PEER_{}", role.to_uppercase()), urls(role))));
        }
        env.extend(more.clone());
        // settings to try, NAME=value with commas
        let tried = std::env::var("CHAOS_SETTINGS").unwrap_or_default();
        env.extend(tried.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())));
        Ok(env)
    }

    fn env_of(&self, service: &str) -> Env {
        let mut env = self.env.clone();
        env.extend(self.besides.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone());
        env.extend(clocks::environment(&self.programs, &self.state, service));
        env.insert("MERCATO_GRPC_ADDR".into(), format!("127.0.0.1:{}", self.grpc_port(service)));
        if let Some(port) = self.ports.admin.get(service) {
            env.insert("MERCATO_ADMIN_ADDR".into(), format!("127.0.0.1:{port}"));
            if SECOND_GATEWAYS.contains(&service) {
                env.insert("MERCATO_GATEWAY_HTTP_ADDR".into(), format!("127.0.0.1:{}", port + 1));
            }
        }
        env
    }

    /// Where the processes of a role serve gRPC.
    fn doors_of(&self, role: &str) -> Vec<String> {
        let mine = self.services.iter().filter(|service| role_of(service) == role);
        mine.map(|service| format!("127.0.0.1:{}", self.grpc_port(service))).collect()
    }

    /// The edge knows every process.
    fn env_of_edge(&self) -> Env {
        let mut env = self.env_of("edge");
        if self.services.contains(&"second") {
            let all: Vec<String> = self.services.iter().map(|name| format!("127.0.0.1:{}", self.grpc_port(name))).collect();
            env.insert("MERCATO_GRPC_ADDR".into(), all.join(","));
        }
        if let Some(port) = SECOND_GATEWAYS.iter().find_map(|name| self.ports.admin.get(name)) {
            env.insert("MERCATO_GATEWAY_HTTP_ADDR".into(), format!("127.0.0.1:{},127.0.0.1:{}", self.ports.http, port + 1));
        }
        env
    }

    /// Makes the clocks of service processes, or of `postgres`, wrong, in a run that may move them.
    ///
    /// # Errors
    /// When their files cannot be written.
    pub fn skew(&self, services: Vec<&'static str>, wrong: Wrong) -> Result<Skewed> {
        Skewed::begin(&self.state, services, wrong)
    }

    async fn part(&self, verb: &str, part: Target) -> Result<()> {
        let mut env = Env::from([
            ("MERCATO_STATE".to_owned(), self.state.display().to_string()),
            ("MERCATO_START_SECONDS".to_owned(), START.as_secs().to_string()),
            ("MERCATO_PG_PORT".to_owned(), self.ports.postgres.to_string()),
            ("MERCATO_REDIS_PORT".to_owned(), self.ports.redis.to_string()),
            ("MERCATO_KAFKA_PORT".to_owned(), self.ports.kafka.to_string()),
        ]);
        env.extend(clocks::of_postgres(&self.programs, &self.state));
        finish(&self.log("part"), &self.programs.part, &[verb, &part.to_string()], &env).await
    }

    /// The process id of a target that runs.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn pid(&self, target: Target) -> Result<u32> {
        if PARTS.contains(&target) {
            let file = self.state.join(format!("run/{target}.pid"));
            let text = std::fs::read_to_string(&file).with_context(|| format!("{target} does not run"))?;
            return text.trim().parse().with_context(|| format!("no process id in {}", file.display()));
        }
        let children = self.children.lock().await;
        children.get(&target).and_then(Child::id).with_context(|| format!("{target} does not run"))
    }

    /// Kills a process as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&self, target: Target) -> Result<()> {
        if PARTS.contains(&target) {
            return self.part("kill", target).await;
        }
        let mut child = self.children.lock().await.remove(&target).with_context(|| format!("{target} does not run"))?;
        child.kill().await.with_context(|| format!("kill {target}"))
    }

    /// Sends SIGTERM and waits for the end of the process at most `limit`; `None` when it still ran then and was killed.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn terminate(&self, target: Target, limit: Duration) -> Result<Option<Duration>> {
        let began = std::time::Instant::now();
        signal(self.pid(target).await?, "TERM").await?;
        let mut child = self.children.lock().await.remove(&target).with_context(|| format!("{target} does not run"))?;
        match tokio::time::timeout(limit, child.wait()).await {
            Ok(status) => status.map(|_| Some(began.elapsed())).with_context(|| format!("wait for {target}")),
            Err(_) => child.kill().await.map(|()| None).with_context(|| format!("kill {target}")),
        }
    }

    /// Freezes a process (`STOP`) or lets it go on (`CONT`).
    ///
    /// # Errors
    /// When it does not run.
    pub async fn freeze(&self, target: Target, name: &str) -> Result<()> {
        signal(self.pid(target).await?, name).await
    }

    /// Starts a process that does not run; does not wait until it is ready, unless it is a part.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn launch(&self, target: Target) -> Result<()> {
        let name = target.to_string();
        let log = self.log(&name);
        let child = match target {
            Target::Postgres | Target::Redis | Target::Kafka => {
                self.part("start", target).await?;
                self.remember(self.pid(target).await?);
                return Ok(());
            }
            Target::Envoy => {
                let folder = self.state.join("edge").display().to_string();
                finish(&self.log("edge"), &self.programs.mercato, &["edge", "--out", &folder], &self.env_of_edge()).await?;
                let config = format!("{folder}/envoy.yaml");
                let arguments = ["-c", &config, "--disable-hot-restart", "--concurrency", "1", "-l", "warn"];
                spawn(&log, &self.programs.envoy, &arguments, &Env::new())?
            }
            Target::Provider => {
                let data = self.state.join("provider");
                std::fs::create_dir_all(&data)?;
                let (address, data) = (format!("127.0.0.1:{}", self.ports.provider), data.display().to_string());
                spawn(&log, &self.programs.provider, &["--addr", &address, "--data", &data], &self.env)?
            }
            Target::Service(service) => {
                let role = Some(role_of(service)).filter(|role| ROLES.contains(role)).unwrap_or("all");
                spawn(&log, &self.programs.mercato, &["run", "--role", role], &self.env_of(service))?
            }
        };
        child.id().into_iter().for_each(|pid| self.remember(pid));
        if self.children.lock().await.insert(target, child).is_some() {
            bail!("{target} was started twice");
        }
        Ok(())
    }

    fn remember(&self, pid: u32) {
        if self.programs.faketime.is_some() {
            self.moved.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(pid);
        }
    }

    /// Waits until a process answers.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn ready(&self, target: Target) -> Result<()> {
        let log = self.log(&target.to_string());
        match target {
            Target::Postgres | Target::Redis | Target::Kafka => Ok(()),
            Target::Envoy => answers(&format!("http://127.0.0.1:{}/ready", self.ports.envoy_admin), false, START, &log).await,
            Target::Provider => answers(&format!("{}/healthz", self.provider()), false, START, &log).await,
            Target::Service(name) => answers(&format!("http://127.0.0.1:{}/readyz", self.ports.admin[name]), false, START, &log).await,
        }
    }

    /// Forgets processes that ended by themselves, and tells which.
    pub async fn take_dead(&self) -> Vec<(Target, String)> {
        let mut children = self.children.lock().await;
        let ended = children.iter_mut().filter_map(|(target, child)| match child.try_wait() {
            Ok(Some(status)) => Some((*target, status.to_string())),
            _ => None,
        });
        let ended: Vec<_> = ended.collect();
        for (target, _) in &ended {
            children.remove(target);
            self.die_no_more();
        }
        ended
    }

    /// Keeps folder and logs when the world ends, for somebody to look at.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for World {
    /// The services die with their handles; the parts were made by a script, which also takes them down.
    fn drop(&mut self) {
        let down = self.programs.part.with_file_name("down");
        let mut command = std::process::Command::new(down);
        if !self.keep {
            command.arg("--wipe");
        }
        command.env("MERCATO_STATE", &self.state).env_remove("DATABASE_URL").env_remove("REDIS_URL").env_remove("KAFKA_BROKERS");
        let quiet = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
        if !quiet.is_ok_and(|status| status.success()) {
            eprintln!("the parts in {} could not be taken down", self.state.display());
        }
        self.moved.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..).for_each(clocks::forget);
    }
}

fn doors(services: &[&'static str]) -> Doors {
    let mut block = Ports::claim();
    let mut next = || block.pair();
    Doors {
        postgres: next(),
        redis: next(),
        kafka: next(),
        envoy: next(),
        envoy_admin: next(),
        provider: next(),
        http: next(),
        grpc: services.iter().map(|name| (*name, next())).collect(),
        admin: services.iter().map(|name| (*name, next())).collect(),
        _block: block,
    }
}

fn secret() -> String {
    format!("s{}", hex(16))
}

fn hex(bytes: usize) -> String {
    (0..bytes).map(|_| format!("{:02x}", rand::random::<u8>())).collect()
}
