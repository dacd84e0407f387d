//! How clients speak to the brokers: readable or over TLS, as nobody or with a login or a certificate of their own.

use crate::config::Source;
use rdkafka::ClientConfig;
use secrecy::{ExposeSecret as _, SecretString};

const PROTOCOL: &str = "KAFKA_SECURITY_PROTOCOL";
const PROTOCOLS: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];
const MECHANISM: &str = "KAFKA_SASL_MECHANISM";
const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
const USER: &str = "KAFKA_SASL_USERNAME";
const PASSWORD: &str = "KAFKA_SASL_PASSWORD";
const CA: &str = "KAFKA_SSL_CA_FILE";
const CERTIFICATE: &str = "KAFKA_SSL_CERT_FILE";
const KEY: &str = "KAFKA_SSL_KEY_FILE";

/// What every client sets beside the brokers' addresses. The default is readable and nameless, for a private network.
#[derive(Clone, Debug, Default)]
pub struct Security {
    tls: Option<Tls>,
    login: Option<Login>,
}

/// Paths of PEM files.
#[derive(Clone, Debug)]
struct Tls {
    /// Absent: the certificates of the system.
    ca: Option<String>,
    /// Our certificate with its chain, and its key, for brokers that want one.
    own: Option<(String, String)>,
}

#[derive(Clone, Debug)]
struct Login {
    mechanism: &'static str,
    user: String,
    password: SecretString,
}

impl Security {
    /// Reads the seven `KAFKA_S...` settings. Whatever contradicts itself is refused: what is set and not used was meant otherwise.
    pub fn read(source: &mut Source) -> Security {
        // a word nobody knows is refused there, and says nothing about the others
        let protocol = one_of(source, PROTOCOL, &PROTOCOLS, Some("PLAINTEXT"), "how brokers are spoken to").unwrap_or_default();
        let tls = read_tls(source, protocol);
        let login = read_login(source, protocol);
        Security { tls, login }
    }

    /// As Kafka calls it.
    pub fn protocol(&self) -> &'static str {
        match (&self.tls, &self.login) {
            (None, None) => "PLAINTEXT",
            (Some(_), None) => "SSL",
            (None, Some(_)) => "SASL_PLAINTEXT",
            (Some(_), Some(_)) => "SASL_SSL",
        }
    }

    /// Makes a client speak so.
    pub(super) fn apply(&self, config: &mut ClientConfig) {
        config.set("security.protocol", self.protocol());
        if let Some(tls) = &self.tls {
            // "probe": wherever this system keeps its certificates
            config.set("ssl.ca.location", tls.ca.as_deref().unwrap_or("probe"));
            config.set("ssl.endpoint.identification.algorithm", "https");
            if let Some((certificate, key)) = &tls.own {
                config.set("ssl.certificate.location", certificate).set("ssl.key.location", key);
            }
        }
        if let Some(login) = &self.login {
            config.set("sasl.mechanism", login.mechanism);
            config.set("sasl.username", &login.user).set("sasl.password", login.password.expose_secret());
        }
    }
}

/// One of these words, in capitals or not.
fn one_of(
    source: &mut Source,
    name: &str,
    words: &'static [&'static str],
    default: Option<&'static str>,
    what: &str,
) -> Option<&'static str> {
    let doc = format!("{what}: {}", words.join(", "));
    let given = match default {
        Some(default) => Some(source.string(name, default, &doc)),
        None => source.optional(name, &doc),
    }?;
    let known = words.iter().copied().find(|word| word.eq_ignore_ascii_case(&given));
    if known.is_none() {
        source.refuse(name, format_args!("must be one of {}, not {given:?}", words.join(", ")));
    }
    known
}

fn read_tls(source: &mut Source, protocol: &str) -> Option<Tls> {
    let ca = source.optional(CA, "PEM file with the authorities that brokers are believed by; absent: those of the system");
    let certificate = source.optional(CERTIFICATE, "PEM file with our certificate and its chain, where brokers want one");
    let key = source.optional(KEY, "PEM file with the key of KAFKA_SSL_CERT_FILE, not encrypted");
    if !protocol.ends_with("SSL") {
        for (name, value) in [(CA, &ca), (CERTIFICATE, &certificate), (KEY, &key)] {
            useless(source, name, value.is_some(), protocol);
        }
        return None;
    }
    for (name, path) in [(CA, &ca), (CERTIFICATE, &certificate)] {
        if let Some(path) = path {
            source.pem(name, path, "CERTIFICATE-----");
        }
    }
    if let Some(path) = &key {
        source.pem(KEY, path, " PRIVATE KEY-----");
    }
    let own = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            source.refuse(KEY, format_args!("must be set, because {CERTIFICATE} is"));
            None
        }
        (None, Some(_)) => {
            source.refuse(CERTIFICATE, format_args!("must be set, because {KEY} is"));
            None
        }
    };
    Some(Tls { ca, own })
}

fn read_login(source: &mut Source, protocol: &str) -> Option<Login> {
    let mechanism = one_of(source, MECHANISM, &MECHANISMS, None, "how the login is proved");
    let mechanism_set = source.is_set(MECHANISM);
    let user = source.optional(USER, "name of the login");
    let password = source.optional_secret(PASSWORD, "password of the login");
    if !protocol.starts_with("SASL") {
        for (name, set) in [(MECHANISM, mechanism_set), (USER, user.is_some()), (PASSWORD, password.is_some())] {
            useless(source, name, set, protocol);
        }
        return None;
    }
    for (name, set) in [(MECHANISM, mechanism_set), (USER, user.is_some())] {
        if !set {
            source.refuse(name, format_args!("must be set, because {PROTOCOL} is {protocol}"));
        }
    }
    if password.is_none() && !source.errors().iter().any(|error| error.starts_with(PASSWORD)) {
        source.refuse(PASSWORD, format_args!("must be set, or {PASSWORD}_FILE, because {PROTOCOL} is {protocol}"));
    }
    Some(Login { mechanism: mechanism?, user: user?, password: password? })
}

fn useless(source: &mut Source, name: &str, set: bool, protocol: &str) {
    if set && !protocol.is_empty() {
        source.refuse(name, format_args!("is set, but would not be used: {PROTOCOL} is {protocol}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;

    /// Reads these settings; the files named in them are made.
    fn read(pairs: &[(&str, &str)]) -> (Security, Vec<String>, String) {
        let folder = std::env::temp_dir().join(format!("kafka-security-{}", crate::ids::new()));
        std::fs::create_dir(&folder).unwrap();
        let files = [
            ("ca", "-----BEGIN CERTIFICATE-----"),
            ("key", "-----BEGIN PRIVATE KEY-----"),
            ("sealed", "-----BEGIN ENCRYPTED PRIVATE KEY-----"),
            ("secret", "hunter2\n"),
        ];
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let value = |text: &str| text.strip_prefix("file:").map_or(text.to_owned(), |name| folder.join(name).display().to_string());
        let mut source = Source::new(pairs.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect::<Env>());
        let security = Security::read(&mut source);
        std::fs::remove_dir_all(&folder).unwrap();
        let told = format!("{:?} {security:?}", source.settings().collect::<Vec<_>>());
        (security, source.errors().to_vec(), told)
    }

    #[test]
    fn every_protocol_is_told_to_the_client() {
        let login = [(MECHANISM, "scram-sha-512"), (USER, "shop"), ("KAFKA_SASL_PASSWORD_FILE", "file:secret")];
        let files = [(CA, "file:ca"), (CERTIFICATE, "file:ca"), (KEY, "file:key")];
        for protocol in PROTOCOLS {
            let mut given = vec![(PROTOCOL, protocol)];
            given.extend(login.iter().filter(|_| protocol.starts_with("SASL")));
            given.extend(files.iter().filter(|_| protocol.ends_with("SSL")));
            let (security, errors, told) = read(&given);
            assert_eq!((errors, security.protocol()), (Vec::new(), protocol));
            assert!(!told.contains("hunter2"), "{told}");
            let mut config = ClientConfig::new();
            security.apply(&mut config);
            assert_eq!(config.get("security.protocol"), Some(protocol));
            assert_eq!(config.get("sasl.password"), protocol.starts_with("SASL").then_some("hunter2"));
            assert_eq!(config.get("sasl.mechanism"), protocol.starts_with("SASL").then_some("SCRAM-SHA-512"));
            assert_eq!(config.get("ssl.key.location").is_some(), protocol.ends_with("SSL"));
        }
        assert_eq!(read(&[]).0.protocol(), "PLAINTEXT");
    }

    #[test]
    fn nonsense_is_refused_with_its_variable_and_reason() {
        let scram = [(PROTOCOL, "SASL_SSL"), (MECHANISM, "SCRAM-SHA-256"), (USER, "shop"), (PASSWORD, "hunter2")];
        let with = |more: &[(&'static str, &'static str)]| {
            let kept = scram.iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name));
            kept.chain(more).copied().filter(|(_, text)| !text.is_empty()).collect::<Vec<_>>()
        };
        let cases = [
            (with(&[(PROTOCOL, "TLS")]), PROTOCOL, "must be one of"),
            (with(&[(MECHANISM, "GSSAPI")]), MECHANISM, "must be one of"),
            (with(&[(MECHANISM, "")]), MECHANISM, "must be set"),
            (with(&[(USER, "")]), USER, "must be set"),
            (with(&[(PASSWORD, "")]), PASSWORD, "or KAFKA_SASL_PASSWORD_FILE"),
            (with(&[(PASSWORD, ""), ("KAFKA_SASL_PASSWORD_FILE", "/nowhere")]), PASSWORD, "cannot read"),
            (with(&[(PROTOCOL, "SSL")]), PASSWORD, "would not be used"),
            (with(&[(PROTOCOL, "")]), USER, "KAFKA_SECURITY_PROTOCOL is PLAINTEXT"),
            (with(&[(PROTOCOL, "SASL_PLAINTEXT"), (CA, "file:ca")]), CA, "would not be used"),
            (with(&[(CA, "/nowhere")]), CA, "cannot read"),
            (with(&[(CA, "file:key")]), CA, "no CERTIFICATE"),
            (with(&[(CERTIFICATE, "file:ca")]), KEY, "must be set"),
            (with(&[(KEY, "file:key")]), CERTIFICATE, "must be set"),
            (with(&[(CERTIFICATE, "file:ca"), (KEY, "file:ca")]), KEY, "no PRIVATE KEY"),
            (with(&[(CERTIFICATE, "file:ca"), (KEY, "file:sealed")]), KEY, "is encrypted"),
        ];
        for (given, name, why) in cases {
            let (_, errors, _) = read(&given);
            assert!(errors.iter().any(|error| error.starts_with(name) && error.contains(why)), "{given:?}: {errors:?}");
            assert!(errors.iter().all(|error| !error.contains("hunter2")), "{errors:?}");
        }
    }
}
