//! Binds, mounts, starts the background work, and opens the doors.

use super::{Running, StartError, Started, running::Server, settings::Settings};
use crate::{
    admin,
    grpc::{
        layers::{Policy, PolicyLayer},
        server,
    },
    idempotency, inbox, jobs, metrics, outbox,
    tasks::Tasks,
    token::{PeerCredentials, Verifier},
    work,
};
use axum::Router;
use futures_util::Stream;
use mercato_contracts::methods::METHODS;
use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::DuplexStream,
    net::TcpListener,
    sync::{Semaphore, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::{ServingStatus, server::HealthReporter};

/// How long the first keys may take before the process serves without; calls with tokens are then refused as unavailable.
const FIRST_KEYS: Duration = Duration::from_secs(5);

pub(super) async fn serve(
    started: Vec<Started>,
    settings: &Settings,
    verifier: Verifier,
    credentials: PeerCredentials,
    inside: mpsc::Receiver<DuplexStream>,
    tasks: &Tasks,
) -> Result<Running, StartError> {
    let listener = bind(settings.server.address, "MERCATO_GRPC_ADDR").await?;
    let admin_listener = bind(settings.server.admin, "MERCATO_ADMIN_ADDR").await?;
    let (grpc, admin) = (local(&listener)?, local(&admin_listener)?);
    let (health, health_service) = tonic_health::server::health_reporter();
    let mut routes = RoutesBuilder::default();
    routes.add_service(health_service);
    if settings.server.reflection {
        let set = mercato_contracts::FILE_DESCRIPTOR_SET;
        let reflection = tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(set).build_v1();
        routes.add_service(reflection.map_err(|e| StartError::Failed(format!("reflection: {e}")))?);
    }
    let mut services = vec![""];
    let mut http = Vec::new();
    let mut dbs = Vec::new();
    for role in started {
        dbs.extend(role.db.clone());
        services.extend(&role.mounted.services);
        if let Some(served) = launch(role, settings, &mut routes, tasks).await? {
            http.push(served);
        }
    }
    // a reporter says that all is well until it is told otherwise, and whoever balances the load would believe it before we are ready
    report(&health, &services, ServingStatus::NotServing).await;
    let policy = |stop: CancellationToken| {
        Arc::new(Policy {
            verifier: verifier.clone(),
            credentials: credentials.clone(),
            calls: Arc::new(Semaphore::new(settings.server.calls)),
            streams: Arc::new(Semaphore::new(settings.server.streams)),
            max_request: settings.server.max_request,
            foreign: foreign(&services),
            stop,
        })
    };
    let routes = routes.routes().prepare();
    let nobody = mpsc::channel(1).1;
    // Calls from inside have limits of their own: a call of ours that waits for another must not be shed because of those from outside.
    let outer = open("outside", routes.clone(), policy(tasks.token()), server::incoming(Some(listener), nobody));
    let inner = open("inside", routes, policy(tasks.token()), server::incoming(None, inside));
    let ready = admin::Ready::default();
    spawn_http(tasks, "admin", admin_listener, admin::router(ready.clone()));
    first_keys(&verifier).await;
    verifier.keep_fresh(tasks);
    report(&health, &services, ServingStatus::Serving).await;
    ready.set(true);
    let (tasks, drain, lame_duck) = (tasks.clone(), settings.server.drain, settings.lame_duck);
    Ok(Running { grpc, admin, http, outer, inner, health, services, ready, tasks, dbs, drain, lame_duck })
}

/// Tells one status for all services.
pub(super) async fn report(health: &HealthReporter, services: &[&'static str], status: ServingStatus) {
    for service in services {
        health.set_service_status(*service, status).await;
    }
}

/// Mounted services that are not in the contracts, and those the chassis adds.
fn foreign(services: &[&'static str]) -> BTreeSet<&'static str> {
    let ours: BTreeSet<_> = METHODS.iter().map(|method| method.service).collect();
    let added = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
    services.iter().copied().filter(|service| !ours.contains(service)).chain(added).collect()
}

async fn bind(address: SocketAddr, setting: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|e| StartError::Failed(format!("{setting}: cannot listen on {address}: {e}")))
}

fn local(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|e| StartError::Failed(e.to_string()))
}

/// Mounts a role's services and starts its background work. Returns its own HTTP server, when it has one.
async fn launch(
    role: Started,
    settings: &Settings,
    routes: &mut RoutesBuilder,
    tasks: &Tasks,
) -> Result<Option<(&'static str, SocketAddr)>, StartError> {
    let Started { name, db, mounted } = role;
    for add in mounted.routes {
        add(routes);
    }
    let kafka = &settings.stores.kafka;
    if let Some(db) = &db {
        outbox::spawn(db, kafka, tasks)?;
        inbox::spawn(db, kafka, mounted.consumers, tasks);
        work::spawn(db, mounted.workers, tasks);
        jobs::spawn(tasks, vec![idempotency::cleanup(db)]);
    } else if !mounted.consumers.is_empty() || !mounted.workers.is_empty() {
        return Err(StartError::Failed(format!("role {name} has consumers or workers, but no database")));
    }
    inbox::spawn_broadcasts(kafka, mounted.broadcasts, tasks);
    jobs::spawn(tasks, mounted.jobs);
    let Some((address, router)) = mounted.http else { return Ok(None) };
    let listener = bind(address, name).await?;
    let address = local(&listener)?;
    spawn_http(tasks, name, listener, router);
    Ok(Some((name, address)))
}

fn spawn_http(tasks: &Tasks, name: &'static str, listener: TcpListener, router: Router) {
    let stop = tasks.token();
    tasks.spawn(name, async move {
        let connections = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>());
        let served = connections.with_graceful_shutdown(stop.clone().cancelled_owned()).into_future();
        // An idle or silent client must not hold up the end.
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        tokio::select! {
            result = served => if let Err(error) = result { tracing::error!(name, %error, "http server ended") },
            () = late => {}
        }
    });
}

fn open(
    door: &'static str,
    routes: Routes,
    policy: Arc<Policy>,
    incoming: impl Stream<Item = io::Result<server::Connection>> + Send + 'static,
) -> Server {
    let stop = CancellationToken::new();
    let (calls, streams) = (policy.calls.clone(), policy.streams.clone());
    watch(door, [("call", &calls), ("stream", &streams)]);
    let served = server::preset()
        .layer(PolicyLayer::new(policy))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    Server { idle: (calls.available_permits(), streams.available_permits()), calls, streams, stop, served: tokio::spawn(served) }
}

/// Has the calls that run told at each scrape.
fn watch(door: &'static str, kinds: [(&'static str, &Arc<Semaphore>); 2]) {
    for (kind, places) in kinds {
        let most = places.available_permits();
        let places = Arc::downgrade(places);
        metrics::RPC_LIMIT.set([door, kind], most as f64);
        metrics::sample(move || {
            let Some(places) = places.upgrade() else { return false };
            metrics::RPC_RUNNING.set([door, kind], most.saturating_sub(places.available_permits()) as f64);
            true
        });
    }
}

async fn first_keys(verifier: &Verifier) {
    let give_up = Instant::now() + FIRST_KEYS;
    while let Err(error) = verifier.refresh(Duration::ZERO).await {
        if Instant::now() >= give_up {
            tracing::warn!(%error, "serving without token keys, they are asked for again");
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
