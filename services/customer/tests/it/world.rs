//! One running role with a database and topics of its own.

use std::sync::Arc;

use async_trait::async_trait;
use mercato_chassis::boot::{self, Running};
use mercato_chassis::error::Fault;
use mercato_chassis::grpc::client::{Peer, Peers, peer_fault};
use mercato_chassis::ids;
use mercato_chassis::pg::Db;
use mercato_chassis::role::Platform;
use mercato_chassis::token::KeySource;
use mercato_contracts::mercato::customer::v1::auth_service_client::AuthServiceClient;
use mercato_contracts::mercato::customer::v1::customer_service_client::CustomerServiceClient;
use mercato_contracts::mercato::customer::v1::key_service_client::KeyServiceClient;
use mercato_contracts::mercato::customer::v1::{Customer, GetJsonWebKeySetRequest, LoginRequest, RegisterCustomerRequest, TokenResponse};
use mercato_testkit::{Actor as _, Guest, LONG, Patient, Sandbox, busy, eventually, patiently};
use sqlx::PgPool;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// The password of every customer made here.
pub const PASSWORD: &str = "correct horse battery";

/// The role under test.
pub struct World {
    sandbox: Sandbox,
    /// The role's database, to look at and to age.
    pub pool: PgPool,
}

struct Keys(Peer);

#[async_trait]
impl KeySource for Keys {
    async fn json_web_keys(&self) -> Result<String, Fault> {
        let answer = KeyServiceClient::new(self.0.clone()).get_json_web_key_set(GetJsonWebKeySetRequest {}).await;
        Ok(answer.map_err(|status| peer_fault(status, "customer"))?.into_inner().json)
    }
}

/// Tokens are verified with the keys that the role publishes.
fn own_keys(peers: &Peers) -> Arc<dyn KeySource> {
    Arc::new(Keys(peers.get("customer")))
}

impl World {
    /// Starts the role with an empty database.
    pub async fn start() -> World {
        let role = Sandbox::of(vec![Box::new(mercato_customer::Customer)]).keys(own_keys).topics(&["customers"]);
        let secret = ids::new().simple().to_string().repeat(2);
        let sandbox = role.env("MERCATO_KEY_SECRET", secret).start().await.expect("the role starts");
        let pool = sandbox.pool("customer").await.clone();
        World { sandbox, pool }
    }

    /// Starts another instance on the same stores; it stops when it is passed to [`World::stop`].
    pub async fn another(&self) -> (Running, Patient) {
        let start = || async { self.instance(&[]).await.inspect_err(|error| eprintln!("the instance starts again: {error}")).ok() };
        let running = eventually("another instance starts", LONG, start).await;
        let endpoint = Channel::from_shared(format!("http://{}", running.grpc())).expect("an address is a url");
        (running, Patient::over(endpoint.connect_lazy()))
    }

    /// What keeps an instance with another setting from starting.
    pub async fn start_error(&self, name: &str, value: &str) -> Option<String> {
        self.instance(&[(name, value)]).await.err().map(|error| error.to_string())
    }

    async fn instance(&self, changed: &[(&str, &str)]) -> Result<Running, boot::StartError> {
        let mut env = self.sandbox.env().clone();
        env.extend(changed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let platform = Platform { roles: vec![Box::new(mercato_customer::Customer)], key_source: own_keys, topics: &["customers"] };
        boot::start(platform, &["customer".to_owned()], env).await
    }

    /// The role's database.
    pub async fn db(&self) -> Db {
        self.sandbox.db("customer").await
    }

    /// Stops an instance, which must end by itself.
    pub async fn stop(running: Running) {
        assert!(running.shutdown().await, "the instance did not stop cleanly");
    }

    /// Stops the role and removes its stores.
    pub async fn end(self) {
        self.pool.close().await;
        assert!(self.sandbox.stop().await, "the role did not stop cleanly");
    }

    /// Where the role's events go.
    pub fn topic(&self) -> String {
        format!("{}customers", self.sandbox.env()["MERCATO_TOPIC_PREFIX"])
    }

    /// `CustomerService`.
    pub fn customers(&self) -> CustomerServiceClient<Patient> {
        CustomerServiceClient::new(self.sandbox.patient())
    }

    /// `AuthService`, each of whose calls is made once, because it counts.
    pub fn auth(&self) -> AuthServiceClient<Channel> {
        AuthServiceClient::new(self.sandbox.channel())
    }

    /// Makes an account called `name` at example.com.
    pub async fn register(&self, name: &str) -> Customer {
        self.customers().register_customer(keyed(registration(name))).await.expect("the name is free").into_inner()
    }

    /// Signs in by user name. The password should be right, because on a busy machine it may be asked for more than once.
    pub async fn login(&self, name: &str, password: &str) -> Result<TokenResponse, Status> {
        patiently("a login", || self.login_once(name, password)).await
    }

    /// The same, once.
    pub async fn login_once(&self, name: &str, password: &str) -> Result<TokenResponse, Status> {
        let request = LoginRequest { username: name.to_owned(), password: password.to_owned(), ..LoginRequest::default() };
        self.auth().login(request).await.map(Response::into_inner)
    }

    /// Registers and signs in; the account, its access token and its refresh token.
    pub async fn signed_in(&self, name: &str) -> (Customer, TokenResponse) {
        let customer = self.register(name).await;
        let tokens = self.login(name, PASSWORD).await.expect("the password is right");
        (customer, tokens)
    }

    /// An access token with the role `admin`.
    pub async fn admin(&self) -> String {
        let db = self.db().await;
        mercato_customer::seed(&db, "admin@example.com", PASSWORD, &["admin"]).await.expect("the admin can be seeded");
        db.close().await;
        self.login("admin", PASSWORD).await.expect("the admin signs in").access_token
    }

    /// The key set as peers get it.
    pub async fn key_set(&self) -> serde_json::Value {
        let request = self.sandbox.peer("gateway").request_without_key(GetJsonWebKeySetRequest {});
        let answer = KeyServiceClient::new(self.sandbox.patient()).get_json_web_key_set(request).await.expect("a peer gets the keys");
        serde_json::from_str(&answer.into_inner().json).expect("the key set is json")
    }
}

/// Plays a test whose calls count, so that none of them can be made again: from its start in a world of its own, and once more when the
/// machine was too busy to answer one of them.
pub async fn played(test: impl AsyncFn(&World) -> Result<(), Status>) {
    let end = Instant::now() + LONG;
    loop {
        let world = World::start().await;
        let ended = test(&world).await;
        world.end().await;
        match ended {
            Ok(()) => return,
            Err(late) => assert!(Instant::now() < end, "{late:?}"),
        }
    }
}

/// The answer or refusal, unless the machine was too busy to give one.
pub fn in_time<T>(answer: Result<T, Status>) -> Result<Result<T, Status>, Status> {
    match answer {
        Err(late) if busy(&late) => Err(late),
        answer => Ok(answer),
    }
}

/// A valid registration for `name` at example.com.
pub fn registration(name: &str) -> RegisterCustomerRequest {
    RegisterCustomerRequest {
        username: name.to_owned(),
        email: format!("{name}@example.com"),
        password: PASSWORD.to_owned(),
        address: Some(mercato_contracts::mercato::r#type::v1::Address {
            street: "Hauptstrasse 5".into(),
            city: "Koeln".into(),
            state: "NW".into(),
            zip_code: "50667".into(),
            country_code: "DE".into(),
        }),
        phone: "+49 221 123456".into(),
    }
}

/// The message with an idempotency key of its own.
pub fn keyed<M>(message: M) -> Request<M> {
    Guest.request(message)
}

/// The message with this idempotency key.
pub fn with_key<M>(message: M, key: &str) -> Request<M> {
    Guest.request_with_key(message, key)
}

/// The request with this access token.
pub fn bearer<M>(mut request: Request<M>, token: &str) -> Request<M> {
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ascii"));
    request
}
