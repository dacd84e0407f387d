//! The stores over TLS, on parts of this test's own that speak it: whoever is told the right things serves, and whoever is told a wrong one
//! says which, soon, and serves nobody. Redis may be lost, so it is only told.
//!
//! Needs dev/part, and of the usual parts PostgreSQL alone (`DATABASE_URL`), which speaks no TLS.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "suite/children.rs"]
#[expect(dead_code, reason = "the suite starts processes that outlive a test")]
mod children;

use children::{Env, finish, free_ports, program, tail};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Longer than anything takes on any machine.
const LONG: Duration = Duration::from_secs(300);
/// A process that is looked at may be held up for a while.
const LOOK: Duration = Duration::from_secs(10);
/// What a process tells that heard nothing from a store in its time: that is no verdict on what it was told.
const SILENCE: [&str; 4] = ["kafka is not there yet", "it does not answer", "no broker answers", "redis does not answer"];
/// Who is refused ends at once.
const NO_WAIT: (&str, &str) = ("MERCATO_START_WAIT_MS", "0");
/// Between two looks at what is waited for.
const PAUSE: Duration = Duration::from_millis(50);
const PARTS: [&str; 3] = ["postgres", "redis", "kafka"];

/// PostgreSQL, Redis and Kafka with certificates; they end with it.
struct Parts {
    state: PathBuf,
    program: PathBuf,
}

impl Parts {
    fn start() -> Parts {
        let dev = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dev");
        let parts = Parts { state: Path::new(env!("CARGO_TARGET_TMPDIR")).join("tls"), program: dev.join("part") };
        parts.end(); // what a test that was killed left behind
        fs::create_dir_all(&parts.state).unwrap();
        let tls = parts.tls("");
        finish(&parts.state.join("certificates.log"), &dev.join("certificates"), &[&tls], &Env::new()).unwrap();
        parts.part("start").unwrap();
        parts
    }

    fn part(&self, verb: &str) -> anyhow::Result<()> {
        let mut env: Env =
            [("MERCATO_STATE", self.state.display().to_string()), ("MERCATO_TLS", self.tls("")), ("MERCATO_FREE_PORTS", "1".into())]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
        for name in ["MERCATO_TOOLS", "XDG_CACHE_HOME", "PARTS_USER"] {
            env.extend(std::env::var(name).ok().map(|value| (name.to_owned(), value)));
        }
        let arguments: Vec<&str> = std::iter::once(verb).chain(PARTS).collect();
        finish(&self.state.join("part.log"), &self.program, &arguments, &env)
    }

    fn end(&self) {
        if self.state.join("run").exists() {
            self.part("stop").unwrap();
        }
        // the data may lie elsewhere, where the parts' user may enter
        if let Ok(data) = fs::canonicalize(self.state.join("data")) {
            fs::remove_dir_all(data).unwrap();
        }
        if self.state.exists() {
            fs::remove_dir_all(&self.state).unwrap();
        }
    }

    /// The path of one of the certificates.
    fn tls(&self, file: &str) -> String {
        self.state.join("tls").join(file).display().to_string()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.state.join(file)).unwrap_or_else(|error| panic!("{file}: {error}")).trim().to_owned()
    }

    fn port(&self, file: &str) -> u16 {
        self.read(&format!("run/{file}")).parse().unwrap()
    }

    /// The settings of a process that is told the right things.
    fn right(&self) -> Env {
        let (user, postgres) = (self.read("data/postgres.password"), self.port("postgres.port"));
        let redis = format!("rediss://shop:{}@127.0.0.1:{}", self.read("tls/password"), self.port("redis.tls-port"));
        [
            ("DATABASE_URL", format!("postgres://mercato:{user}@127.0.0.1:{postgres}/postgres")),
            ("DATABASE_SSL_CA_FILE", self.tls("ca.pem")),
            ("REDIS_URL", redis),
            ("REDIS_SSL_CA_FILE", self.tls("ca.pem")),
            ("KAFKA_BROKERS", format!("localhost:{}", self.port("kafka.tls-port"))),
            ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL".into()),
            ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-512".into()),
            ("KAFKA_SASL_USERNAME", "shop".into()),
            ("KAFKA_SASL_PASSWORD_FILE", self.tls("password")),
            ("KAFKA_SSL_CA_FILE", self.tls("ca.pem")),
            ("MERCATO_PEER_SECRET", "peers-of-the-tls-test".into()),
            ("MERCATO_KEY_SECRET", "0123456789abcdef".repeat(4)),
            ("MERCATO_LOG", "info".into()),
            ("MERCATO_START_WAIT_MS", "120000".into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// The same with some settings changed, or taken away where there is none.
    fn with(&self, changes: &[(&str, &str)]) -> Env {
        let mut env = self.right();
        for (name, value) in changes {
            env.remove(*name);
            if !value.is_empty() {
                env.insert((*name).to_owned(), (*value).to_owned());
            }
        }
        env
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        } else if let Err(error) = self.part("stop") {
            eprintln!("the parts still run: {error:#}");
        }
    }
}

/// A role that runs, or tries to.
struct Process {
    child: Child,
    admin: u16,
    log: PathBuf,
}

impl Process {
    fn start(parts: &Parts, name: &str, env: &Env) -> Process {
        let (ports, log) = (free_ports(2), parts.state.join(format!("{name}.log")));
        let out = File::create(&log).unwrap();
        let child = Command::new(program("MERCATO_BIN", Some(env!("CARGO_BIN_EXE_mercato").into())).unwrap())
            .args(["run", "--role", "catalog,inventory,customer"])
            .env_clear()
            .envs(env)
            .env("MERCATO_GRPC_ADDR", format!("127.0.0.1:{}", ports[0]))
            .env("MERCATO_ADMIN_ADDR", format!("127.0.0.1:{}", ports[1]))
            .stdin(Stdio::null())
            .stderr(out.try_clone().unwrap())
            .stdout(out)
            .spawn()
            .unwrap();
        Process { child, admin: ports[1], log }
    }

    async fn ready(&self) -> bool {
        let asked = http().get(format!("http://127.0.0.1:{}/readyz", self.admin)).send();
        matches!(asked.await, Ok(answer) if answer.status() == 200)
    }

    async fn metric(&self, line: &str) -> f64 {
        let page = match http().get(format!("http://127.0.0.1:{}/metrics", self.admin)).send().await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        };
        page.lines().filter(|l| l.starts_with(line)).filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    async fn until(&mut self, what: &str, so: impl AsyncFn(&Process) -> bool) {
        let began = Instant::now();
        while !so(self).await {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < LONG, "not within {LONG:?}: {what}; ended: {ended:?}\n{}", tail(&self.log));
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().timeout(LOOK).build().unwrap()
}

fn silent(said: &str) -> bool {
    SILENCE.iter().any(|words| said.contains(words))
}

impl Drop for Process {
    fn drop(&mut self) {
        // one that has ended cannot be killed, and need not
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Nobody's password is in the log.
fn discreet(parts: &Parts, text: &str) {
    for secret in [parts.read("tls/password"), parts.read("data/postgres.password"), "not-the-password".into()] {
        assert!(!text.contains(&secret), "a password is in the log:\n{text}");
    }
}

/// How a process that must not serve ended; `None` when it serves for want of an answer that would keep it from that.
async fn ended(process: &mut Process, name: &str, began: Instant) -> Option<ExitStatus> {
    loop {
        if process.ready().await {
            assert!(silent(&process.said()), "{name} serves:\n{}", process.said());
            return None;
        }
        if let Some(status) = process.child.try_wait().unwrap() {
            return Some(status);
        }
        assert!(began.elapsed() < LONG, "{name} hangs:\n{}", process.said());
        tokio::time::sleep(PAUSE).await;
    }
}

/// A process told this never serves, ends by itself, and says why; one that heard nothing in its time is started again.
async fn refused(parts: &Parts, name: &str, changes: &[(&str, &str)], why: &str) {
    let began = Instant::now();
    let env = parts.with(&[changes, &[NO_WAIT]].concat());
    let said = loop {
        let mut process = Process::start(parts, name, &env);
        let status = ended(&mut process, name, began).await;
        let said = process.said();
        discreet(parts, &said);
        if status.is_some_and(|status| !status.success()) && said.contains(why) {
            break said;
        }
        assert!(silent(&said) && began.elapsed() < LONG, "{name}: {status:?}, and {why:?} is not in\n{said}");
    };
    let line = said.lines().find(|line| line.contains(why)).unwrap_or_default();
    eprintln!("{name}, {:.1} s: {line}", began.elapsed().as_secs_f64());
}

/// A process told this serves without Redis, and says why.
async fn does_without_redis(parts: &Parts, name: &str, changes: &[(&str, &str)], why: &str) {
    let began = Instant::now();
    let said = loop {
        let mut process = Process::start(parts, name, &parts.with(changes));
        process.until("it serves", Process::ready).await;
        process.until(why, async |process| process.said().contains(why) || process.said().contains("redis does not answer")).await;
        let said = process.said();
        discreet(parts, &said);
        if said.contains(why) {
            break said;
        }
        assert!(began.elapsed() < LONG, "{name}: {why:?} is not in\n{said}");
    };
    eprintln!("{name}: {}", said.lines().find(|line| line.contains(why)).unwrap_or_default());
}

#[tokio::test]
async fn stores_are_reached_over_tls_or_the_log_says_why_not() {
    let parts = Parts::start();
    let mercato = program("MERCATO_BIN", Some(env!("CARGO_BIN_EXE_mercato").into())).unwrap();
    let finish = |name: &str, arguments: &[&str], env: &Env| finish(&parts.state.join(name), &mercato, arguments, env).unwrap();
    finish("migrate.log", &["migrate"], &parts.right());
    finish("seed.log", &["seed", "--products", "3"], &parts.right());
    events_pass(&parts, "scram-512", &[]).await;
    // nothing to do, but only a client that is let in knows it
    finish("migrate-256.log", &["migrate"], &parts.with(&[("KAFKA_SASL_MECHANISM", "SCRAM-SHA-256")]));
    let mutual = mutual(&parts);
    let mutual: Vec<(&str, &str)> = mutual.iter().map(|(name, value)| (*name, value.as_str())).collect();
    finish("migrate-mutual.log", &["migrate"], &parts.with(&mutual));
    tokio::join!(kafka_refuses(&parts, &mutual), postgres_refuses(&parts), redis_refuses(&parts));
}

/// What the seed put into the outboxes reaches its consumer, and Redis answers.
async fn events_pass(parts: &Parts, name: &str, changes: &[(&str, &str)]) {
    let mut process = Process::start(parts, name, &parts.with(changes));
    process.until("it serves", Process::ready).await;
    process.until("an event is taken", async |process| process.metric("mercato_inbox_events_total{").await > 0.0).await;
    let (url, ca) = (parts.right().remove("REDIS_URL").unwrap(), fs::read(parts.tls("ca.pem")).unwrap());
    let redis = mercato_chassis::redis::Redis::new(&url, Some(&ca)).unwrap();
    process.until("redis answers", async |_| redis.query::<String>(&redis::cmd("PING")).await.is_ok()).await;
    let said = process.said();
    assert!(!said.contains("redis is not available") && !said.contains("kafka refuses us"), "{said}");
    discreet(parts, &said);
}

/// A certificate of our own instead of a login.
fn mutual(parts: &Parts) -> Vec<(&'static str, String)> {
    vec![
        ("KAFKA_BROKERS", format!("127.0.0.1:{}", parts.port("kafka.tls-port") + 1)),
        ("KAFKA_SECURITY_PROTOCOL", "SSL".into()),
        ("KAFKA_SASL_MECHANISM", String::new()),
        ("KAFKA_SASL_USERNAME", String::new()),
        ("KAFKA_SASL_PASSWORD_FILE", String::new()),
        ("KAFKA_SSL_CERT_FILE", parts.tls("client.pem")),
        ("KAFKA_SSL_KEY_FILE", parts.tls("client.key")),
    ]
}

async fn kafka_refuses(parts: &Parts, mutual: &[(&str, &str)]) {
    let other = parts.tls("other-ca.pem");
    refused(parts, "kafka-authority", &[("KAFKA_SSL_CA_FILE", &other)], "certificate verify failed").await;
    let wrong = [("KAFKA_SASL_PASSWORD_FILE", ""), ("KAFKA_SASL_PASSWORD", "not-the-password")];
    refused(parts, "kafka-password", &wrong, "invalid credentials").await;
    let log = parts.state.join("migrate-password.log");
    let mercato = program("MERCATO_BIN", Some(env!("CARGO_BIN_EXE_mercato").into())).unwrap();
    let (began, env) = (Instant::now(), parts.with(&[&wrong[..], &[NO_WAIT]].concat()));
    loop {
        let said = finish(&log, &mercato, &["migrate"], &env).expect_err("migrated with a wrong password").to_string();
        discreet(parts, &said);
        if said.contains("invalid credentials") {
            break;
        }
        assert!(silent(&said) && began.elapsed() < LONG, "{said}");
    }
    let plain = format!("127.0.0.1:{}", parts.port("kafka.port"));
    refused(parts, "kafka-no-tls-there", &[("KAFKA_BROKERS", &plain)], "KAFKA_SECURITY_PROTOCOL=SASL_SSL").await;
    let nothing = [
        ("KAFKA_SECURITY_PROTOCOL", ""),
        ("KAFKA_SASL_MECHANISM", ""),
        ("KAFKA_SASL_USERNAME", ""),
        ("KAFKA_SASL_PASSWORD_FILE", ""),
        ("KAFKA_SSL_CA_FILE", ""),
    ];
    refused(parts, "kafka-no-tls-here", &nothing, "KAFKA_SECURITY_PROTOCOL=PLAINTEXT").await;
    let mut nameless = mutual.to_vec();
    nameless.extend([("KAFKA_SSL_CERT_FILE", ""), ("KAFKA_SSL_KEY_FILE", "")]);
    refused(parts, "kafka-no-certificate", &nameless, "or a certificate").await;
    let half = [("KAFKA_SASL_USERNAME", "")];
    refused(parts, "kafka-half-a-login", &half, "KAFKA_SASL_USERNAME: must be set, because KAFKA_SECURITY_PROTOCOL is SASL_SSL").await;
}

async fn postgres_refuses(parts: &Parts) {
    let other = parts.tls("other-ca.pem");
    refused(parts, "postgres-authority", &[("DATABASE_SSL_CA_FILE", &other)], "UnknownIssuer").await;
    let url = parts.right().remove("DATABASE_URL").unwrap();
    let wrong = url.replace(&parts.read("data/postgres.password"), "not-the-password");
    refused(parts, "postgres-password", &[("DATABASE_URL", &wrong)], "password authentication failed").await;
    let usual = std::env::var("DATABASE_URL").expect("DATABASE_URL must be set: run the suite with `make test`");
    refused(parts, "postgres-no-tls-there", &[("DATABASE_URL", &usual)], "server does not support TLS").await;
}

async fn redis_refuses(parts: &Parts) {
    let (other, url) = (parts.tls("other-ca.pem"), parts.right().remove("REDIS_URL").unwrap());
    does_without_redis(parts, "redis-authority", &[("REDIS_SSL_CA_FILE", &other)], "UnknownIssuer").await;
    let wrong = url.replace(&parts.read("tls/password"), "not-the-password");
    does_without_redis(parts, "redis-password", &[("REDIS_URL", &wrong)], "Password authentication failed").await;
    let plain = url.replace("rediss://", "redis://");
    let without = [("REDIS_URL", plain.as_str()), ("REDIS_SSL_CA_FILE", "")];
    does_without_redis(parts, "redis-no-tls-here", &without, "redis is not available").await;
}
