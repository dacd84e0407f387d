//! What a service gives to the chassis, and what it gets.

use crate::{
    config,
    error::Fault,
    grpc::client::Peers,
    inbox::{Broadcast, Consumer},
    jobs::Job,
    outbox::Event,
    page_token::PageTokens,
    pg::Db,
    redis::Redis,
    tasks::Tasks,
    token::KeySource,
    work::{Wake, Worker},
};
use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use std::{convert::Infallible, net::SocketAddr, sync::Arc};
use tonic::{body::Body, server::NamedService, service::RoutesBuilder};
use uuid::Uuid;

/// A service that can run in a process, alone or beside others.
pub trait Role: Send + Sync {
    /// Its name, lower case; it names the database, the settings and the peer.
    fn name(&self) -> &'static str;
    /// The migrations of its database; a role without has no database.
    fn migrations(&self) -> Option<&'static sqlx::migrate::Migrator> {
        None
    }
    /// For each topic it speaks in: the query for the number of the latest event of some aggregates, which takes their ids as `$1` and
    /// answers with rows of id and number. After a restored backup it tells what was said and what never happened.
    fn sequences(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Its consumers that keep the number of each aggregate's last event, and the topic each hears. All events of such a topic matter.
    fn counts(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// What it can say again when the broker has lost it. Every topic that somebody counts must be among these.
    fn again(&self) -> &'static [Again] {
        &[]
    }

    /// Reads its settings before anything is opened or bound. Errors are collected in `source`, so that all are told at once.
    fn configure(&self, source: &mut config::Source) -> Box<dyn Prepared>;
}

/// How a role says again what it has said in a topic.
pub struct Again {
    /// The topic.
    pub topic: &'static str,
    /// The query for aggregates and the numbers of their latest events: ids above `$1` in their order, at most `$2`.
    pub aggregates: &'static str,
    /// Where the events come from.
    pub events: Retold,
}

/// Where events that are said again come from.
pub enum Retold {
    /// They are kept: the query for aggregate, number, kind and payload of the events of the aggregates `$1` with numbers above those of `$2`.
    Kept(&'static str),
    /// Each says again how things are now, under every number above the given one.
    Now(MakeNow),
}

/// Makes the events of [`Retold::Now`] for some aggregates, inside a transaction.
pub type MakeNow = for<'t> fn(&'t mut PgConnection, &'t [(Uuid, i64)]) -> BoxFuture<'t, Result<Vec<Event>, Fault>>;

/// A role that has its settings.
#[async_trait]
pub trait Prepared: Send {
    /// Builds the service. Stores are connected, nothing is bound yet, and no peer can be called before the process serves.
    ///
    /// # Errors
    /// Whatever keeps the role from starting; the process then ends.
    async fn start(self: Box<Self>, ctx: Context) -> Result<Mounted, Fault>;
}

/// What a role is given.
#[derive(Clone)]
pub struct Context {
    /// The role's name.
    pub role: &'static str,
    /// Its database, when it has migrations.
    pub db: Option<Db>,
    /// Redis, when `REDIS_URL` is set.
    pub redis: Option<Redis>,
    /// The way to other roles.
    pub peers: Peers,
    /// For background work; `tasks.token()` ends streams at shutdown.
    pub tasks: Tasks,
    /// Nudges this role's workers.
    pub wake: Wake,
    /// Makes and reads page tokens.
    pub page_tokens: PageTokens,
    /// Stands before every topic name; empty outside tests.
    pub topic_prefix: Arc<str>,
}

impl Context {
    /// The role's database.
    ///
    /// # Errors
    /// [`Fault::Internal`] when the role declares no migrations.
    pub fn database(&self) -> Result<Db, Fault> {
        self.db.clone().ok_or_else(|| Fault::Internal(format!("role {} declares no migrations and so has no database", self.role)))
    }

    /// The role's database, for roles that declare migrations.
    ///
    /// # Panics
    /// In a role without migrations, which is a mistake of its author.
    pub fn db(&self) -> Db {
        self.db.clone().expect("a role with migrations has a database")
    }
}

/// Adds one service to the routes of a server.
pub(crate) type AddRoute = Box<dyn FnOnce(&mut RoutesBuilder) + Send>;

/// What a role brings to the process.
#[derive(Default)]
pub struct Mounted {
    pub(crate) routes: Vec<AddRoute>,
    /// Full names of the mounted services, for the health service.
    pub services: Vec<&'static str>,
    /// Consumers of events.
    pub consumers: Vec<Consumer>,
    /// Listeners on every instance, for caches.
    pub broadcasts: Vec<Broadcast>,
    /// Workers on durable steps.
    pub workers: Vec<Arc<dyn Worker>>,
    /// Periodic work.
    pub jobs: Vec<Job>,
    /// An HTTP server of its own.
    pub http: Option<(SocketAddr, axum::Router)>,
}

impl Mounted {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a generated server. Message sizes are limited by the server's layers, see [`crate::grpc::server::limits`].
    pub fn add<S>(&mut self, service: S)
    where
        S: tower::Service<http::Request<Body>, Error = Infallible> + NamedService + Clone + Send + Sync + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.services.push(S::NAME);
        self.routes.push(Box::new(move |routes| {
            routes.add_service(service);
        }));
    }
}

/// The roles a program consists of.
pub struct Platform {
    /// All roles; a process starts some or all.
    pub roles: Vec<Box<dyn Role>>,
    /// Where the keys come from that tokens are verified with.
    pub key_source: fn(&Peers) -> Arc<dyn KeySource>,
    /// All topics, without prefix and dead letters.
    pub topics: &'static [&'static str],
}
