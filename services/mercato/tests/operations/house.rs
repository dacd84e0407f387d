//! A shop whose processes are started, killed and started otherwise, and whose stores are looked into.

use crate::{
    children::{Env, free_ports, program, tail},
    on_server, sweep,
};
use mercato_contracts::mercato::{
    catalog::v1::{ListProductsRequest, product_service_client::ProductServiceClient},
    customer::v1::{LoginRequest, auth_service_client::AuthServiceClient},
    ordering::v1::{Order, PlaceOrderItem, PlaceOrderRequest, order_service_client::OrderServiceClient},
};
use mercato_contracts::mercato::{ordering::v1::GetOrderRequest, r#type::v1::Address};
use mercato_testkit::eventually;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

/// How long anything may take on a slow machine.
pub const LONG: Duration = Duration::from_secs(300);
/// How the executable tells that a store had no time for it.
const NOT_NOW: [&str; 5] = ["is not available", "is at its limit", "the time for the change ran out", "it does not answer", "timed out"];
/// Every role, as `--role` takes them.
pub const ALL: &str = "catalog,inventory,ordering,payment,customer,gateway";
/// The roles with a database.
pub const STORES: [&str; 5] = ["catalog", "inventory", "ordering", "payment", "customer"];
const ROLES: [&str; 6] = ["catalog", "inventory", "ordering", "payment", "customer", "gateway"];

/// A shop of its own; its processes end with it.
pub struct House {
    /// Stands before the names of its databases and topics.
    pub name: String,
    /// For logs and files.
    pub folder: PathBuf,
    env: Env,
    server: String,
    ports: BTreeMap<&'static str, u16>,
    processes: BTreeMap<String, Child>,
    placed: usize,
}

/// A customer who is signed in.
#[derive(Clone)]
pub struct Visitor {
    /// The access token.
    pub token: String,
}

impl Visitor {
    /// A request with the token, and an idempotency key when there is one.
    pub fn request<M>(&self, message: M, key: Option<&str>) -> Request<M> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().expect("ascii"));
        if let Some(key) = key {
            request.metadata_mut().insert("idempotency-key", key.parse().expect("ascii"));
        }
        request
    }
}

impl House {
    /// New databases and topics, with some products and the development logins. Nothing runs yet.
    pub async fn new() -> House {
        let given = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} must be set: run the tests with `make test`"));
        static SWEPT: OnceCell<()> = OnceCell::const_new();
        let (server, name) = (given("DATABASE_URL"), sweep::run_name());
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        SWEPT.get_or_init(|| async { swept(&server, &given("KAFKA_BROKERS"), place).await.expect("what earlier runs left") }).await;
        let folder = place.join(name.trim_end_matches('_'));
        std::fs::create_dir_all(&folder).expect("a folder");
        let names = ROLES.into_iter().chain(["provider", "http", "edge"]);
        let ports: BTreeMap<_, _> = names.zip(free_ports(ROLES.len() + 3)).collect();
        let mut env: Env = [
            ("KAFKA_BROKERS", given("KAFKA_BROKERS")),
            ("MERCATO_TOPIC_PREFIX", name.clone()),
            ("MERCATO_TOPIC_PARTITIONS", "2".into()),
            // tests share the server's sessions
            ("MERCATO_DB_CONNECTIONS", "4".into()),
            ("MERCATO_PEER_SECRET", secret()),
            ("MERCATO_KEY_SECRET", secret()),
            ("MERCATO_PROVIDER_WEBHOOK_SECRET", secret()),
            ("MERCATO_PROVIDER_URL", format!("http://127.0.0.1:{}", ports["provider"])),
            ("MERCATO_GATEWAY_HTTP_ADDR", format!("127.0.0.1:{}", ports["http"])),
            ("MERCATO_EDGE_ADDR", format!("127.0.0.1:{}", ports["edge"])),
            ("MERCATO_PROVIDER_WEBHOOK_URL", format!("http://127.0.0.1:{}/api/payments/webhooks/dev", ports["edge"])),
            ("STAFF_EMAIL", "staff@example.com".into()),
            ("STAFF_PASSWORD", secret()),
            ("CUSTOMER_EMAIL", "customer@example.com".into()),
            ("CUSTOMER_PASSWORD", secret()),
        ]
        .map(|(variable, value)| (variable.to_owned(), value))
        .into();
        for role in STORES {
            env.insert(format!("{}_DATABASE_URL", role.to_uppercase()), on_server(&server, &format!("{name}{role}")));
        }
        let house = House { name, folder, env, server, ports, processes: BTreeMap::new(), placed: 0 };
        house.succeeds(&["migrate"]);
        house.succeeds(&["seed", "--products", "4"]);
        house
    }

    /// Where a role's process listens; one with several roles has the port of its first.
    fn port(&self, roles: &str) -> u16 {
        self.ports[roles.split(',').next().expect("a role")]
    }

    /// Changes a setting of all processes that are started from now on; an empty value takes it away.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// Starts the payment provider.
    pub async fn provider(&mut self) {
        let beside = Path::new(env!("CARGO_BIN_EXE_mercato")).with_file_name("mercato-provider");
        let provider = program("MERCATO_PROVIDER_BIN", Some(beside)).expect("the provider");
        let (ledger, address) = (self.folder.join("ledger"), format!("127.0.0.1:{}", self.ports["provider"]));
        std::fs::create_dir_all(&ledger).expect("a folder");
        let arguments = ["--addr", &address, "--data", ledger.to_str().expect("text")];
        self.spawn("provider", &provider, &arguments, &Env::new());
        self.listens("provider", &format!("http://{address}/")).await;
    }

    /// Starts a process with these roles and waits until it is ready.
    pub async fn start(&mut self, roles: &str) {
        let admin = self.launch(roles);
        self.listens(roles, &format!("http://127.0.0.1:{admin}/readyz")).await;
    }

    /// Starts a process with these roles. Returns the port of its probes.
    pub fn launch(&mut self, roles: &str) -> u16 {
        let mut env = self.env.clone();
        let ours: Vec<&str> = roles.split(',').collect();
        for role in ROLES.iter().filter(|role| !ours.contains(role)) {
            let others = self.processes.keys().find(|process| process.split(',').any(|one| one == *role));
            let port = others.map_or(self.ports[role], |process| self.port(process));
            env.insert(format!("MERCATO_PEER_{}", role.to_uppercase()), format!("http://127.0.0.1:{port}"));
        }
        let admin = free_ports(1)[0];
        env.insert("MERCATO_GRPC_ADDR".into(), format!("127.0.0.1:{}", self.port(roles)));
        env.insert("MERCATO_ADMIN_ADDR".into(), format!("127.0.0.1:{admin}"));
        self.spawn(roles, Path::new(env!("CARGO_BIN_EXE_mercato")), &["run", "--role", roles], &env);
        admin
    }

    /// The kernel kills it when this thread ends, which is the test's.
    fn spawn(&mut self, name: &str, program: &Path, arguments: &[&str], env: &Env) {
        let log = File::options().create(true).append(true).open(self.log_of(name)).expect("a log");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program).args(arguments);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(env);
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("a log")).stdout(log);
        self.processes.insert(name.to_owned(), command.spawn().expect("a process"));
    }

    async fn listens(&mut self, name: &str, url: &str) {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().expect("a client");
        let log = self.log_of(name);
        let child = self.processes.get_mut(name).expect("it was started");
        let probe = name != "provider";
        let ready = async {
            while !client.get(url).send().await.is_ok_and(|answer| !probe || answer.status() == 200) {
                assert!(child.try_wait().expect("a child").is_none(), "{name} ended:\n{}", tail(&log));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LONG, ready).await.unwrap_or_else(|_| panic!("{name} is not ready:\n{}", tail(&log)));
    }

    /// Where a process writes its log.
    fn log_of(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.log", name.replace(',', "-")))
    }

    /// What a process has written so far.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_of(name)).expect("a log")
    }

    /// Ends a process with kill -9.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.processes.remove(name).expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// Waits until a process ends by itself, and tells whether it ended well.
    pub async fn ends(&mut self, name: &str) -> bool {
        let mut child = self.processes.remove(name).expect("it was started");
        eventually("it ends", LONG, || std::future::ready(child.try_wait().expect("a child"))).await.success()
    }

    /// Runs the executable to its end.
    pub fn mercato(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mercato"));
        command.args(arguments).current_dir(&self.folder).env_clear().envs(&self.env).output().expect("the executable")
    }

    /// The same; again when the stores had no time for it, as long as that does no harm.
    fn patient(&self, arguments: &[&str], harmless: bool) -> (Output, String) {
        let end = Instant::now() + LONG;
        loop {
            let output = self.mercato(arguments);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            let not_now = harmless && !output.status.success() && NOT_NOW.iter().any(|words| told.contains(words));
            if !not_now || Instant::now() > end {
                return (output, told);
            }
        }
    }

    /// Runs the executable to its end, which must be good; returns what it told.
    #[track_caller]
    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let repeatable = matches!(arguments, ["migrate" | "seed", ..] | ["events", "place" | "save" | "check", ..]);
        let (output, told) = self.patient(arguments, repeatable);
        assert!(output.status.success(), "{arguments:?}: {told}");
        told
    }

    /// The same, once, with what it told; it must fail. A refusal may well name a store that it was not allowed to ask.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> String {
        let (output, told) = self.patient(arguments, false);
        assert!(!output.status.success(), "{arguments:?} succeeds: {told}");
        told
    }

    /// Deletes topics and groups; the broker believes for some seconds that a killed reader still lives.
    pub async fn empty(&self) {
        let ask = || std::future::ready(self.mercato(&["events", "empty"]).status.success().then_some(()));
        eventually("the topics are empty", LONG, ask).await;
    }

    /// Runs statements in the database of a role.
    pub async fn sql(&self, role: &str, statements: &str) {
        let mut database = PgConnection::connect(&self.env[&format!("{}_DATABASE_URL", role.to_uppercase())]).await.expect("a database");
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut database).await.expect("good statements");
    }

    /// The number a query in the database of a role answers.
    pub async fn count(&self, role: &str, query: &str) -> i64 {
        let mut database = PgConnection::connect(&self.env[&format!("{}_DATABASE_URL", role.to_uppercase())]).await.expect("a database");
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut database).await.expect("a number")
    }

    /// Waits until a query in the database of a role answers this number.
    pub async fn counts(&self, role: &str, query: &str, number: i64) {
        let ask = || async { (self.count(role, query).await == number).then_some(()) };
        eventually(&format!("{role}: {query} is {number}"), LONG, ask).await;
    }

    /// Waits until nothing of a role waits to be sent.
    pub async fn sent(&self, role: &str) {
        self.counts(role, "select count(*) from outbox", 0).await;
    }

    /// Copies every database, or puts the copies in the place of the databases. Nothing may run.
    pub async fn databases(&self, from: &str, to: &str) {
        let mut server = PgConnection::connect(&self.server).await.expect("the server");
        for role in STORES {
            let (from, to) = (format!("{}{role}{from}", self.name), format!("{}{role}{to}", self.name));
            // what the killed processes left open the server notices by itself, but not at once
            let end = format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{from}'");
            let copy = format!("create database \"{to}\" template \"{from}\"");
            sqlx::raw_sql(AssertSqlSafe(format!("drop database if exists \"{to}\" with (force)")))
                .execute(&mut server)
                .await
                .expect("a drop");
            let give_up = Instant::now() + LONG;
            loop {
                sqlx::raw_sql(AssertSqlSafe(end.clone())).execute(&mut server).await.expect("sessions end");
                match sqlx::raw_sql(AssertSqlSafe(copy.clone())).execute(&mut server).await {
                    Ok(_) => break,
                    Err(error) if Instant::now() > give_up => panic!("{role}: {error}"),
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        }
    }

    /// A channel to the process with this role.
    pub fn channel(&self, role: &str) -> Channel {
        let process = self.processes.keys().find(|process| process.split(',').any(|one| one == role)).expect("the role runs");
        Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port(process))).expect("a url").timeout(LONG).connect_lazy()
    }

    /// Signs in; `who` is CUSTOMER or STAFF.
    pub async fn sign_in(&self, who: &str) -> Visitor {
        let login = LoginRequest {
            email: self.env[&format!("{who}_EMAIL")].clone(),
            password: self.env[&format!("{who}_PASSWORD")].clone(),
            ..Default::default()
        };
        let mut door = AuthServiceClient::new(self.channel("customer"));
        let answer = patiently("sign-in", async || door.login(login.clone()).await).await.expect("the password is right");
        Visitor { token: answer.into_inner().access_token }
    }

    /// A product of the seed.
    pub async fn product(&self) -> String {
        let request = ListProductsRequest { page_size: 1, ..Default::default() };
        let mut products = ProductServiceClient::new(self.channel("catalog"));
        let page = patiently("products", async || products.list_products(request.clone()).await).await.expect("products");
        page.into_inner().products[0].id.clone()
    }

    /// A key that was not used yet.
    pub fn key(&mut self) -> String {
        self.placed += 1;
        format!("{}{}", self.name, self.placed)
    }

    /// Orders one unit.
    pub async fn place(&self, visitor: &Visitor, product: &str, key: &str, payment_token: &str) -> Order {
        let placed = patiently("an order", async || self.try_to_place(visitor, product, key, payment_token).await);
        placed.await.expect("an order")
    }

    /// The same, once.
    pub async fn try_to_place(&self, visitor: &Visitor, product: &str, key: &str, payment_token: &str) -> Result<Order, Status> {
        let address = Address {
            street: "Hauptstrasse 5".into(),
            city: "Koeln".into(),
            state: "NW".into(),
            zip_code: "50667".into(),
            ..Default::default()
        };
        let order = PlaceOrderRequest {
            items: vec![PlaceOrderItem { product_id: product.to_owned(), quantity: 1, ..Default::default() }],
            shipping_address: Some(address),
            payment_method: "credit_card".into(),
            payment_token: payment_token.to_owned(),
            ..Default::default()
        };
        let placed = OrderServiceClient::new(self.channel("ordering")).place_order(visitor.request(order, Some(key))).await;
        placed.map(tonic::Response::into_inner)
    }

    /// The order, if the shop knows it.
    pub async fn order(&self, visitor: &Visitor, id: &str) -> Option<Order> {
        let get = || visitor.request(GetOrderRequest { order_id: id.to_owned() }, None);
        let mut orders = OrderServiceClient::new(self.channel("ordering"));
        match patiently("an order", async || orders.get_order(get()).await).await {
            Ok(order) => Some(order.into_inner()),
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => panic!("{status:?}"),
        }
    }

    /// Waits until consumers have taken what was said, and nothing was put aside.
    pub async fn comes_to_rest(&self) {
        let ask = || std::future::ready(self.mercato(&["events", "check", "--at-rest"]).status.success().then_some(()));
        eventually("consumers have taken all", LONG, ask).await;
        for role in STORES {
            assert_eq!(self.count(role, "select count(*) from parked").await, 0, "{role}");
            assert_eq!(self.count(role, "select count(*) from dead_letter").await, 0, "{role}");
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for child in self.processes.values_mut() {
            // one that has ended by itself cannot be killed, which is as well
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Tests of one run start together, and one of them sweeps.
async fn swept(server: &str, brokers: &str, place: &Path) -> anyhow::Result<()> {
    sweep::databases(server).await?;
    sweep::topics(brokers).await?;
    sweep::folders(place)
}

/// Asks again while a busy machine is too slow to answer, or a connection that was cut is made anew. Any other refusal is the answer.
pub async fn patiently<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let end = tokio::time::Instant::now() + LONG;
    loop {
        match ask().await {
            Err(status)
                if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted) =>
            {
                assert!(tokio::time::Instant::now() < end, "{what}: {status:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            answer => return answer,
        }
    }
}

fn secret() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}
