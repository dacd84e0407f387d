//! The settings of the process itself.

use crate::{
    config::Source,
    grpc::server,
    kafka::KafkaSettings,
    page_token::PageTokens,
    pg::PgSettings,
    role::Role,
    telemetry,
    token::{PeerCredentials, TokenSettings},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use std::{collections::BTreeMap, time::Duration};

/// Where the stores are; all that migrations need.
pub(super) struct Stores {
    pub(super) kafka: KafkaSettings,
    databases: BTreeMap<&'static str, String>,
    pool_size: u32,
}

impl Stores {
    pub(super) fn read(source: &mut Source, roles: &[&dyn Role]) -> Self {
        let mut databases = BTreeMap::new();
        let common = source.optional_url("DATABASE_URL", "postgresql; a role's database there is mercato_<role>");
        for role in roles.iter().filter(|role| role.migrations().is_some()) {
            let name = format!("{}_DATABASE_URL", role.name().to_uppercase());
            let own = source.optional_url(&name, "the role's own database; absent: mercato_<role> at DATABASE_URL");
            match own.or_else(|| with_database(common.as_deref()?, &format!("mercato_{}", role.name()))) {
                Some(url) => drop(databases.insert(role.name(), url)),
                None => source.refuse(&name, "must be set, or DATABASE_URL"),
            }
        }
        let doc = "kafka brokers, host:port with commas";
        let stored = roles.iter().any(|role| role.migrations().is_some());
        let brokers = if stored { source.required("KAFKA_BROKERS", doc) } else { source.string("KAFKA_BROKERS", "", doc) };
        let prefix = source.string("MERCATO_TOPIC_PREFIX", "", "stands before every topic and consumer group; for tests");
        let mut kafka = KafkaSettings::new(brokers, prefix);
        kafka.partitions = source.number("MERCATO_TOPIC_PARTITIONS", 6, 1..=1000, "partitions of a new topic");
        kafka.replicas = source.number("MERCATO_TOPIC_REPLICATION", 1, 1..=9, "replicas of a new topic");
        let pool_size = source.number("MERCATO_DB_CONNECTIONS", 8, 2..=200, "connections to each database");
        Self { kafka, databases, pool_size }
    }

    /// How to reach the database of a role that has migrations.
    pub(super) fn database(&self, role: &'static str) -> PgSettings {
        let url = self.databases.get(role).cloned().unwrap_or_default();
        PgSettings { pool_size: self.pool_size, ..PgSettings::new(role, url) }
    }
}

/// The same URL with another database name.
fn with_database(url: &str, name: &str) -> Option<String> {
    let after_scheme = url.find("://")? + 3;
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let end = base.get(after_scheme..)?.find('/').map_or(base.len(), |slash| after_scheme + slash);
    let query = query.map(|q| format!("?{q}")).unwrap_or_default();
    Some(format!("{}/{name}{query}", &base[..end]))
}

pub(super) struct Settings {
    pub(super) stores: Stores,
    pub(super) server: server::Settings,
    pub(super) telemetry: telemetry::Settings,
    pub(super) tokens: TokenSettings,
    pub(super) peer_secret: SecretString,
    /// Accepted as well while the secret is being changed.
    pub(super) other_peer_secret: Option<SecretString>,
    pub(super) redis: Option<String>,
    pub(super) start_wait: Duration,
    /// How long the process still takes calls after it has said that it wants none.
    pub(super) lame_duck: Duration,
}

impl Settings {
    pub(super) fn read(source: &mut Source, roles: &[&dyn Role]) -> Self {
        let names: Vec<_> = roles.iter().map(|role| role.name()).collect();
        let peer_secret = source.secret("MERCATO_PEER_SECRET", "secret all roles share to know each other by, 16 characters or more");
        if !peer_secret.expose_secret().is_empty() && !crate::config::strong(&peer_secret) {
            source.refuse("MERCATO_PEER_SECRET", "must have 16 characters or more");
        }
        let doc = "accepted as well while the peers' secret is being changed: the next one before, the last one after";
        let other_peer_secret = source.optional_secret("MERCATO_PEER_SECRET_OTHER", doc);
        if other_peer_secret.as_ref().is_some_and(|secret| !crate::config::strong(secret)) {
            source.refuse("MERCATO_PEER_SECRET_OTHER", "must have 16 characters or more");
        }
        Self {
            stores: Stores::read(source, roles),
            server: server::Settings::read(source),
            telemetry: telemetry::Settings::read(
                source,
                if let [role] = names[..] { format!("mercato-{role}") } else { "mercato".to_owned() },
            ),
            tokens: TokenSettings::read(source),
            peer_secret,
            other_peer_secret,
            redis: source.optional_url("REDIS_URL", "redis, for what may be lost; absent: caches stay in the process"),
            start_wait: source.duration_ms("MERCATO_START_WAIT_MS", 30_000, 0..=600_000, "milliseconds to wait for the stores at start"),
            lame_duck: source.duration_ms(
                "MERCATO_LAME_DUCK_MS",
                0,
                0..=60_000,
                "milliseconds of MERCATO_DRAIN_MS in which calls are still taken, so that load balancers notice; behind one, 3000",
            ),
        }
    }

    /// By which this process and its peers know each other.
    pub(super) fn credentials(&self) -> PeerCredentials {
        let credentials = PeerCredentials::new(self.peer_secret.clone());
        self.other_peer_secret.clone().into_iter().fold(credentials, PeerCredentials::accepting)
    }

    /// Page tokens; their secret is another one than the peers', made from it.
    pub(super) fn page_tokens(&self) -> PageTokens {
        let tokens = PageTokens::new(&page_secret(&self.peer_secret));
        self.other_peer_secret.iter().fold(tokens, |tokens, other| tokens.accepting(&page_secret(other)))
    }
}

fn page_secret(peers: &SecretString) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(peers.expose_secret().as_bytes()).expect("hmac takes keys of any length");
    mac.update(b"page tokens");
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn a_url_keeps_all_but_its_database() {
        for (url, expected) in [
            ("postgres://u:p@h:5432/postgres", "postgres://u:p@h:5432/mercato_x"),
            ("postgres://u:p@h:5432", "postgres://u:p@h:5432/mercato_x"),
            ("postgres://h/a?sslmode=require", "postgres://h/mercato_x?sslmode=require"),
            ("postgres://h?sslmode=require", "postgres://h/mercato_x?sslmode=require"),
        ] {
            assert_eq!(with_database(url, "mercato_x").as_deref(), Some(expected));
        }
        assert_eq!(with_database("nonsense", "x"), None);
    }
}
