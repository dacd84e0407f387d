//! The settings of the process itself.

use crate::{
    config::Source,
    grpc::server,
    kafka::{KafkaSettings, Security},
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

const DATABASE_CA: &str = "DATABASE_SSL_CA_FILE";
const REDIS_CA: &str = "REDIS_SSL_CA_FILE";

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
        let ca = authority(
            source,
            DATABASE_CA,
            "PEM file with an authority that postgresql is believed by, beside those of the web; the urls mean sslmode=verify-full then",
        );
        for role in roles.iter().filter(|role| role.migrations().is_some()) {
            let name = format!("{}_DATABASE_URL", role.name().to_uppercase());
            let own = source.optional_url(&name, "the role's own database; absent: mercato_<role> at DATABASE_URL");
            match own.or_else(|| with_database(common.as_deref()?, &format!("mercato_{}", role.name()))) {
                Some(url) => match ca.as_deref().map_or(Ok(url.clone()), |ca| verified(&url, ca)) {
                    Ok(url) => drop(databases.insert(role.name(), url)),
                    Err(why) => source.refuse(DATABASE_CA, why),
                },
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
        let doc = "silence after which a consumer is checked for having stalled";
        kafka.watch = source.duration_ms("MERCATO_KAFKA_WATCH_MS", 60_000, 1_000..=3_600_000, doc);
        kafka.security = Security::read(source);
        let pool_size = source.number("MERCATO_DB_CONNECTIONS", 8, 2..=200, "connections to each database");
        Self { kafka, databases, pool_size }
    }

    /// How to reach the database of a role that has migrations.
    pub(super) fn database(&self, role: &'static str) -> PgSettings {
        let url = self.databases.get(role).cloned().unwrap_or_default();
        PgSettings { pool_size: self.pool_size, ..PgSettings::new(role, url) }
    }
}

/// How long a process waits for its stores before it gives up.
pub(super) fn start_wait(source: &mut Source) -> Duration {
    source.duration_ms("MERCATO_START_WAIT_MS", 30_000, 0..=600_000, "milliseconds to wait for the stores at start")
}

/// The same URL with another database name.
fn with_database(url: &str, name: &str) -> Option<String> {
    let after_scheme = url.find("://")? + 3;
    let (base, query) = url.split_once('?').map_or((url, None), |(base, query)| (base, Some(query)));
    let end = base.get(after_scheme..)?.find('/').map_or(base.len(), |slash| after_scheme + slash);
    let query = query.map(|q| format!("?{q}")).unwrap_or_default();
    Some(format!("{}/{name}{query}", &base[..end]))
}

/// A PEM file with certificates that may be absent.
fn authority(source: &mut Source, name: &str, doc: &str) -> Option<String> {
    let path = source.optional(name, doc)?;
    source.pem(name, &path, "CERTIFICATE-----");
    Some(path)
}

/// The same URL, with a server that is believed by this authority (or one of the web's) and by its name. Refuses a URL that verifies less.
fn verified(url: &str, ca: &str) -> Result<String, String> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let given = |names: &[&str]| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(name, _)| names.contains(name)).map(|(_, value)| value).next_back()
    };
    if given(&["sslrootcert", "ssl-root-cert", "ssl-ca"]).is_some() {
        return Err("is set, and the url names another file".to_owned());
    }
    let mut query: Vec<String> = query.split('&').filter(|pair| !pair.is_empty()).map(str::to_owned).collect();
    match given(&["sslmode", "ssl-mode"]) {
        None => query.push("sslmode=verify-full".to_owned()),
        Some("verify-full" | "verify-ca") => {}
        Some(mode) => return Err(format!("is set, but would not be used: the url says sslmode={mode}")),
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte);
    let path: String = ca.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect();
    query.push(format!("sslrootcert={path}"));
    Ok(format!("{base}?{}", query.join("&")))
}

/// Where Redis is, and who vouches for it.
#[derive(Clone)]
pub(super) struct RedisSettings {
    /// A secret.
    pub(super) url: String,
    /// Contents of a PEM file; absent: the authorities of the web.
    pub(super) ca: Option<Vec<u8>>,
}

impl RedisSettings {
    fn read(source: &mut Source) -> Option<Self> {
        let doc = "redis, for what may be lost, rediss:// over TLS; absent: caches stay in the process";
        let url = source.optional_url("REDIS_URL", doc);
        let ca = authority(source, REDIS_CA, "PEM file with the authority that redis is believed by; absent: those of the web");
        if url.as_ref().is_some_and(|url| url.ends_with("#insecure")) {
            source.refuse("REDIS_URL", "must not end in #insecure: a server that is not verified may be anybody's");
        }
        if ca.is_some() && !url.as_ref().is_some_and(|url| url.starts_with("rediss://")) {
            source.refuse(REDIS_CA, "is set, but would not be used: REDIS_URL does not begin with rediss://");
        }
        Some(Self { url: url?, ca: ca.and_then(|path| std::fs::read(path).ok()) })
    }
}

pub(super) struct Settings {
    pub(super) stores: Stores,
    pub(super) server: server::Settings,
    pub(super) telemetry: telemetry::Settings,
    pub(super) tokens: TokenSettings,
    pub(super) peer_secret: SecretString,
    /// Accepted as well while the secret is being changed.
    pub(super) other_peer_secret: Option<SecretString>,
    pub(super) redis: Option<RedisSettings>,
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
            redis: RedisSettings::read(source),
            start_wait: start_wait(source),
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
    use super::{RedisSettings, verified, with_database};
    use crate::config::Source;

    #[test]
    fn an_authority_verifies_the_server_or_is_refused() {
        for (url, expected) in [
            ("postgres://u:p@h/d", "postgres://u:p@h/d?sslmode=verify-full&sslrootcert=/run/a%20b/ca.pem"),
            ("postgres://h/d?sslmode=verify-ca", "postgres://h/d?sslmode=verify-ca&sslrootcert=/run/a%20b/ca.pem"),
            ("postgres://h/d?user=x", "postgres://h/d?user=x&sslmode=verify-full&sslrootcert=/run/a%20b/ca.pem"),
        ] {
            assert_eq!(verified(url, "/run/a b/ca.pem").as_deref(), Ok(expected));
        }
        for weaker in ["sslmode=require", "ssl-mode=disable", "sslmode=prefer", "sslrootcert=/other"] {
            assert!(verified(&format!("postgres://h/d?{weaker}"), "/ca").is_err(), "{weaker}");
        }
    }

    #[test]
    fn redis_is_verified_or_refused() {
        for (url, ca, name) in [
            ("rediss://h:1/#insecure", None, "REDIS_URL"),
            ("redis://h:1", Some("/nowhere"), "REDIS_SSL_CA_FILE"),
            ("rediss://h:1", Some("/nowhere"), "REDIS_SSL_CA_FILE"),
        ] {
            let env = [("REDIS_URL", Some(url)), ("REDIS_SSL_CA_FILE", ca)];
            let mut source = Source::new(env.iter().filter_map(|(n, v)| Some(((*n).to_owned(), (*v)?.to_owned()))).collect());
            RedisSettings::read(&mut source);
            assert!(source.errors().iter().any(|error| error.starts_with(name)), "{url}: {:?}", source.errors());
        }
    }

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
