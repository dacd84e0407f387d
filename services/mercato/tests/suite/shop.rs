//! The shop under test: fresh databases and topics, the provider, the executable, and Envoy in front, started once a test binary.

use super::{
    children::{Env, finish, free_ports, program, spawn, tail},
    fresh,
    signer::Signer,
    sweep,
};
use crate::APART;
use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

const ROLES: &[&str] = &["catalog", "inventory", "ordering", "payment", "customer", "gateway"];
const STORES: &[&str] = &["catalog", "inventory", "ordering", "payment", "customer"];
/// How many products the seed makes.
pub const SEEDED: usize = 60;
/// What the shop's processes are told beside the usual that is known only at run time; to be set before the shop is asked for.
pub static MORE: OnceLock<Env> = OnceLock::new();
/// How long a process may take to come up.
const START: Duration = Duration::from_secs(300);

/// Where everything is.
pub struct Shop {
    /// Envoy, `http://host:port`.
    pub edge: String,
    /// The secret peers share.
    pub peer_secret: String,
    /// The login with every role.
    pub staff: (String, String),
    /// Signs tokens that are good, and bad ones with the good key.
    pub signer: Signer,
    /// Envoy's administration, `http://host:port`.
    pub edge_admin: String,
    /// The databases, by role.
    pub databases: Vec<(&'static str, String)>,
    /// Where the processes write their logs.
    pub logs: PathBuf,
    /// The processes, by name; they live as long as the test binary.
    pub processes: Vec<(&'static str, u32)>,
    grpc: Vec<(&'static str, u16)>,
    admin: Vec<(&'static str, u16)>,
    tools: u16,
}

impl Shop {
    /// The metrics of every process of ours, one after the other.
    pub async fn metrics(&self) -> String {
        self.scrapes().await.concat()
    }

    /// The metrics of each process of ours, in Prometheus' text form.
    pub async fn scrapes(&self) -> Vec<String> {
        self.scraped("", "text/plain; version=0.0.4; charset=utf-8").await
    }

    /// The same as Prometheus gets it, with exemplars.
    pub async fn open_scrapes(&self) -> Vec<String> {
        let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        self.scraped(accept, "application/openmetrics-text; version=1.0.0; charset=utf-8").await
    }

    async fn scraped(&self, accept: &str, form: &str) -> Vec<String> {
        let (client, mut all) = (reqwest::Client::new(), Vec::new());
        for (_, port) in &self.admin {
            let ask = client.get(format!("http://127.0.0.1:{port}/metrics")).header("accept", accept);
            let answer = ask.send().await.expect("metrics");
            assert_eq!(answer.headers()["content-type"], form);
            all.push(answer.text().await.expect("metrics are text"));
        }
        all
    }

    /// The inner door of a role, `http://host:port`, as its peers use it.
    pub fn inside(&self, role: &str) -> String {
        let (_, port) = self.grpc.iter().find(|(name, _)| *name == role).expect("a role of ours");
        format!("http://127.0.0.1:{port}")
    }

    /// Where tools find all roles: the process itself, or Envoy's inner listener.
    pub fn tools(&self) -> String {
        format!("http://127.0.0.1:{}", self.tools)
    }
}

/// The shop; the first call starts it.
pub fn shop() -> &'static Shop {
    static SHOP: OnceLock<Result<Shop, String>> = OnceLock::new();
    let started = SHOP.get_or_init(|| {
        let (tell, told) = std::sync::mpsc::channel();
        // the children live as long as this thread, and it lives as long as the process
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let result = runtime.block_on(start()).map_err(|error| format!("{error:#}"));
            tell.send(result).expect("somebody waits for the shop");
            loop {
                std::thread::park();
            }
        });
        told.recv().unwrap_or_else(|_| Err("the thread that starts the shop panicked".into()))
    });
    started.as_ref().unwrap_or_else(|error| panic!("the shop does not start: {error}"))
}

/// Where things are while they start.
struct Plan {
    logs: PathBuf,
    mercato: PathBuf,
    common: Env,
    grpc: Vec<(&'static str, u16)>,
    admin: Vec<(&'static str, u16)>,
    tools: u16,
    edge: u16,
    edge_admin: u16,
    http: u16,
    provider: u16,
}

async fn start() -> Result<Shop> {
    let began = Instant::now();
    let given = |name: &str| std::env::var(name).with_context(|| format!("{name} must be set: run the suite with `make test`"));
    let (database, kafka, redis) = (given("DATABASE_URL")?, given("KAFKA_BROKERS")?, given("REDIS_URL")?);
    let envoy = program("MERCATO_ENVOY_BIN", None)?;
    let mercato = program("MERCATO_BIN", Some(env!("CARGO_BIN_EXE_mercato").into()))?;
    let beside = mercato.with_file_name("mercato-provider");
    let provider = program("MERCATO_PROVIDER_BIN", Some(beside))?;
    sweep::databases(&database).await?;
    sweep::topics(&kafka).await?;
    sweep::folders(Path::new(env!("CARGO_TARGET_TMPDIR")))?;

    let plan = Plan::new(mercato, &database, &kafka, &redis)?;
    finish(&plan.log("migrate"), &plan.mercato, &["migrate"], &plan.common)?;
    finish(&plan.log("seed"), &plan.mercato, &["seed", "--products", &SEEDED.to_string()], &plan.common)?;
    let mut processes = start_services(&plan, &provider).await?;
    let signer = Signer::publish(&plan.common["CUSTOMER_DATABASE_URL"]).await?;
    processes.push(("envoy", start_edge(&plan, &envoy).await?));
    let shop = Shop {
        edge: format!("http://127.0.0.1:{}", plan.edge),
        peer_secret: plan.common["MERCATO_PEER_SECRET"].clone(),
        staff: (plan.common["STAFF_EMAIL"].clone(), plan.common["STAFF_PASSWORD"].clone()),
        signer,
        edge_admin: format!("http://127.0.0.1:{}", plan.edge_admin),
        databases: STORES.iter().map(|role| (*role, plan.common[&format!("{}_DATABASE_URL", role.to_uppercase())].clone())).collect(),
        logs: plan.logs.clone(),
        processes,
        grpc: plan.grpc.clone(),
        admin: plan.admin.clone(),
        tools: plan.tools,
    };
    believed(&shop).await?;
    let (took, databases) = (began.elapsed().as_secs_f64(), shop.databases.len());
    eprintln!("the shop started in {took:.1} s on {databases} databases; logs in {}; envoy {}", shop.logs.display(), shop.edge_admin);
    eprintln!("processes: {:?}", shop.processes);
    Ok(shop)
}

/// Starts provider and roles, and waits until they are ready.
async fn start_services(plan: &Plan, provider: &Path) -> Result<Vec<(&'static str, u32)>> {
    let data = plan.logs.join("ledger");
    std::fs::create_dir_all(&data)?;
    let address = format!("127.0.0.1:{}", plan.provider);
    let data = data.to_str().context("a path that is text")?;
    let mut processes = vec![("provider", spawn(&plan.log("provider"), provider, &["--addr", &address, "--data", data], &plan.common)?)];
    for (name, port) in plan.processes() {
        let role = if name == "mercato" { "all" } else { name };
        processes.push((name, spawn(&plan.log(name), &plan.mercato, &["run", "--role", role], &plan.env(name, port))?));
    }
    for (name, port) in &plan.admin {
        answers(&format!("http://127.0.0.1:{port}/readyz"), &plan.log(name)).await?;
    }
    answers(&format!("http://{address}/"), &plan.log("provider")).await?;
    Ok(processes)
}

/// Renders the edge's configuration, starts Envoy, and waits until it finds the services healthy.
async fn start_edge(plan: &Plan, envoy: &Path) -> Result<u32> {
    let folder = plan.logs.join("edge");
    let folder = folder.to_str().context("a path that is text")?;
    finish(&plan.log("edge"), &plan.mercato, &["edge", "--out", folder], &plan.env("edge", plan.tools))?;
    let config = format!("{folder}/envoy.yaml");
    let arguments = ["-c", &config, "--disable-hot-restart", "--concurrency", "1", "-l", "warn"];
    let process = spawn(&plan.log("envoy"), envoy, &arguments, &Env::new())?;
    answers(&format!("http://127.0.0.1:{}/ready", plan.edge_admin), &plan.log("envoy")).await?;
    answers(&format!("http://127.0.0.1:{}/healthz", plan.edge), &plan.log("envoy")).await?;
    Ok(process)
}

/// The URL of another database on the same server.
fn on_server(url: &str, database: &str) -> Result<String> {
    let (base, query) = url.split_once('?').map_or((url, String::new()), |(base, query)| (base, format!("?{query}")));
    let (server, _) = base.rsplit_once('/').filter(|(server, _)| !server.ends_with('/')).context("DATABASE_URL names a database")?;
    Ok(format!("{server}/{database}{query}"))
}

impl Plan {
    /// Free ports, new names, fresh secrets.
    fn new(mercato: PathBuf, database: &str, kafka: &str, redis: &str) -> Result<Self> {
        let name = sweep::run_name();
        let logs = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.trim_end_matches('_'));
        std::fs::create_dir_all(&logs)?;
        let ports = free_ports(5 + 2 * ROLES.len());
        let (fixed, rest) = ports.split_at(5);
        let (&[tools, edge, edge_admin, http, provider], (one, other)) = (fixed, rest.split_at(ROLES.len())) else { bail!("five ports") };
        let paired = |ports: &[u16]| ROLES.iter().copied().zip(ports.iter().copied()).collect::<Vec<_>>();
        let (grpc, admin) = if APART {
            (paired(one), paired(other))
        } else {
            (ROLES.iter().map(|role| (*role, tools)).collect(), vec![("mercato", other[0])])
        };
        let mut plan = Self { logs, mercato, common: Env::new(), grpc, admin, tools, edge, edge_admin, http, provider };
        plan.common = plan.settings(&name);
        for (variable, value) in [("DATABASE_URL", database), ("KAFKA_BROKERS", kafka), ("REDIS_URL", redis)] {
            plan.common.entry(variable.into()).or_insert_with(|| value.into());
        }
        for role in STORES {
            plan.common.insert(format!("{}_DATABASE_URL", role.to_uppercase()), on_server(database, &format!("{name}{role}"))?);
        }
        Ok(plan)
    }

    /// What every process is told.
    fn settings(&self, name: &str) -> Env {
        let local = |port: u16| format!("127.0.0.1:{port}");
        let mut env: Env = [
            ("MERCATO_TOPIC_PREFIX", name.to_owned()),
            ("MERCATO_TOPIC_PARTITIONS", "2".into()),
            ("MERCATO_PEER_SECRET", fresh("peers-")),
            ("MERCATO_KEY_SECRET", (0..4).map(|_| fresh("")).collect()),
            ("MERCATO_PROVIDER_WEBHOOK_SECRET", fresh("webhooks-")),
            ("MERCATO_PROVIDER_URL", format!("http://{}", local(self.provider))),
            ("MERCATO_PROVIDER_WEBHOOK_URL", format!("http://{}/api/payments/webhooks/dev", local(self.edge))),
            ("MERCATO_GATEWAY_HTTP_ADDR", local(self.http)),
            ("MERCATO_EDGE_ADDR", local(self.edge)),
            ("MERCATO_EDGE_ADMIN_ADDR", local(self.edge_admin)),
            ("STAFF_EMAIL", "staff@example.com".into()),
            ("STAFF_PASSWORD", fresh("staff-")),
            ("CUSTOMER_EMAIL", "customer@example.com".into()),
            ("CUSTOMER_PASSWORD", fresh("customer-")),
            // all scenarios come from one address at once
            ("MERCATO_RATE_AUTH_BURST", "100000".into()),
            ("MERCATO_RATE_ANONYMOUS_BURST", "100000".into()),
            ("MERCATO_RATE_WRITE_BURST", "100000".into()),
        ]
        .map(|(variable, value)| (variable.to_owned(), value))
        .into();
        env.extend(crate::SETTINGS.iter().map(|(variable, value)| ((*variable).to_owned(), (*value).to_owned())));
        env.extend(MORE.get().cloned().unwrap_or_default());
        if APART {
            env.insert("MERCATO_EDGE_SPLIT".into(), "1".into());
            env.extend(
                self.grpc.iter().map(|(role, port)| (format!("MERCATO_PEER_{}", role.to_uppercase()), format!("http://{}", local(*port)))),
            );
        }
        env
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    fn processes(&self) -> Vec<(&'static str, u16)> {
        if APART { self.grpc.clone() } else { vec![("mercato", self.tools)] }
    }

    fn env(&self, process: &str, grpc: u16) -> Env {
        let mut env = self.common.clone();
        env.insert("MERCATO_GRPC_ADDR".into(), format!("127.0.0.1:{grpc}"));
        if let Some((_, port)) = self.admin.iter().find(|(name, _)| *name == process) {
            env.insert("MERCATO_ADMIN_ADDR".into(), format!("127.0.0.1:{port}"));
        }
        env
    }
}

/// Waits until the address answers at all, with 200 where it is a probe of ours; the log is the error when it does not.
async fn answers(url: &str, log: &Path) -> Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
    let any = url.ends_with('/');
    let end = Instant::now() + START;
    loop {
        let seen = match client.get(url).send().await {
            Ok(answer) if any || answer.status() == 200 => return Ok(()),
            Ok(answer) => answer.status().to_string(),
            Err(error) => error.to_string(),
        };
        if Instant::now() > end {
            bail!("{url} is not ready in {START:?} ({seen}); the end of {}:\n{}", log.display(), tail(log));
        }
        tokio::time::sleep(super::PAUSE).await;
    }
}

/// Waits until the edge has the keys and the whole way to ordering works.
async fn believed(shop: &Shop) -> Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
    let end = Instant::now() + START;
    loop {
        let token = shop.signer.good(&[]);
        let seen = match client.get(format!("{}/api/orders", shop.edge)).bearer_auth(token).send().await {
            Ok(answer) if answer.status() == 200 => return Ok(()),
            Ok(answer) => format!("{}", answer.status()),
            Err(error) => error.to_string(),
        };
        if Instant::now() > end {
            bail!("GET /api/orders with a good token still answers {seen}");
        }
        tokio::time::sleep(super::PAUSE).await;
    }
}
