//! Typed settings from an environment. All errors are collected, so that an operator sees them at once.

use secrecy::{ExposeSecret as _, SecretString};
use std::{collections::BTreeMap, fmt::Display, net::SocketAddr, ops::RangeInclusive, str::FromStr, time::Duration};

/// The environment settings are read from; the process' own, or a test's.
pub type Env = BTreeMap<String, String>;

/// The environment of this process. Variables that are not text are left out.
pub fn process_env() -> Env {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

/// One setting as it is in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The environment variable.
    pub name: String,
    /// The value in effect; secrets are masked.
    pub value: String,
    /// What it does, with its unit and limits.
    pub doc: String,
    /// Whether it was set and is not the default.
    pub set: bool,
}

/// Reads settings, and remembers what was read and what was wrong.
#[derive(Debug, Default)]
pub struct Source {
    env: Env,
    settings: BTreeMap<String, Setting>,
    errors: Vec<String>,
}

impl Source {
    /// Reads from this environment. An empty value counts as not set.
    pub fn new(env: Env) -> Self {
        Self { env, ..Self::default() }
    }

    /// The environment.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Everything read so far, by name.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.settings.values()
    }

    /// What was wrong, in the order it was found.
    pub fn errors(&self) -> &[String] {
        &self.errors
    }

    /// Reports a setting that is wrong for a reason of the role's own, such as two settings that contradict each other.
    pub fn refuse(&mut self, name: &str, why: impl Display) {
        self.errors.push(format!("{name}: {why}"));
    }

    /// Whether a setting that was read is not the default.
    pub fn is_set(&self, name: &str) -> bool {
        self.settings.get(name).is_some_and(|setting| setting.set)
    }

    /// Refuses a file that cannot be read, is not PEM, or holds nothing of a kind, such as `CERTIFICATE-----`.
    pub fn pem(&mut self, name: &str, path: &str, kind: &str) {
        match std::fs::read_to_string(path) {
            Ok(text) if text.lines().any(|line| line.starts_with("-----BEGIN ENCRYPTED") || line.starts_with("Proc-Type: 4,ENCRYPTED")) => {
                self.refuse(name, format_args!("{path} is encrypted, which nothing here can open"));
            }
            Ok(text) if text.lines().any(|line| line.starts_with("-----BEGIN ") && line.ends_with(kind)) => {}
            Ok(_) => self.refuse(name, format_args!("{path} holds no {}", kind.trim_matches(['-', ' ']))),
            Err(error) => self.refuse(name, format_args!("cannot read {path}: {error}")),
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.env.get(name).map(|value| value.trim()).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    fn note(&mut self, name: &str, value: impl Display, doc: impl Display, set: bool) {
        self.settings.insert(name.to_owned(), Setting { name: name.to_owned(), value: value.to_string(), doc: doc.to_string(), set });
    }

    /// Text, with a default.
    pub fn string(&mut self, name: &str, default: &str, doc: &str) -> String {
        let value = self.get(name);
        let set = value.is_some();
        let value = value.unwrap_or_else(|| default.to_owned());
        self.note(name, mask_url(&value), doc, set);
        value
    }

    /// Text that may be absent.
    pub fn optional(&mut self, name: &str, doc: &str) -> Option<String> {
        let value = self.get(name);
        self.note(name, value.as_deref().map(mask_url).unwrap_or_default(), doc, value.is_some());
        value
    }

    /// Text that must be there; empty after an error.
    pub fn required(&mut self, name: &str, doc: &str) -> String {
        let value = self.optional(name, doc);
        if value.is_none() {
            self.refuse(name, format_args!("must be set ({doc})"));
        }
        value.unwrap_or_default()
    }

    /// A number within a range; the default after an error.
    pub fn number<N>(&mut self, name: &str, default: N, range: RangeInclusive<N>, doc: &str) -> N
    where
        N: FromStr + PartialOrd + Display + Copy,
    {
        let given = self.get(name);
        let value = match given.as_deref().map(str::parse::<N>) {
            None => default,
            Some(Ok(number)) if range.contains(&number) => number,
            Some(_) => {
                let text = given.as_deref().unwrap_or_default();
                self.refuse(name, format_args!("must be a number from {} to {}, not {text:?}", range.start(), range.end()));
                default
            }
        };
        self.note(name, value, format_args!("{doc} ({} to {})", range.start(), range.end()), given.is_some());
        value
    }

    /// A time in whole milliseconds within a range.
    pub fn duration_ms(&mut self, name: &str, default: u64, range: RangeInclusive<u64>, doc: &str) -> Duration {
        Duration::from_millis(self.number(name, default, range, doc))
    }

    /// `on` or `off`; also true/false, yes/no, 1/0.
    pub fn flag(&mut self, name: &str, default: bool, doc: &str) -> bool {
        let given = self.get(name);
        let value = match given.as_deref() {
            None => default,
            Some("on" | "true" | "yes" | "1") => true,
            Some("off" | "false" | "no" | "0") => false,
            Some(text) => {
                let error = format!("must be on or off, not {text:?}");
                self.refuse(name, error);
                default
            }
        };
        self.note(name, if value { "on" } else { "off" }, doc, given.is_some());
        value
    }

    /// An IP address and port, such as `127.0.0.1:50051`; `default` must be one.
    pub fn address(&mut self, name: &str, default: &str, doc: &str) -> SocketAddr {
        let text = self.string(name, default, doc);
        text.parse().unwrap_or_else(|_| {
            self.refuse(name, format_args!("must be an address and port, not {text:?}"));
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    /// An IP address and port that may be absent.
    pub fn optional_address(&mut self, name: &str, doc: &str) -> Option<SocketAddr> {
        let text = self.optional(name, doc)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.refuse(name, format_args!("must be an address and port, not {text:?}"));
        }
        parsed
    }

    /// A secret that must be there: the value of the variable, or the first line of the file that `<name>_FILE` names.
    pub fn secret(&mut self, name: &str, doc: &str) -> SecretString {
        let secret = self.optional_secret(name, doc);
        if secret.is_none() && !self.errors.iter().any(|e| e.starts_with(name)) {
            self.refuse(name, format_args!("must be set, or {name}_FILE ({doc})"));
        }
        secret.unwrap_or_default()
    }

    /// A secret that may be absent.
    pub fn optional_secret(&mut self, name: &str, doc: &str) -> Option<SecretString> {
        let value = self.value_or_file(name);
        self.note(name, if value.is_some() { "***" } else { "" }, format_args!("{doc} (or {name}_FILE)"), value.is_some());
        value.map(SecretString::from)
    }

    /// A connection URL that may be absent: the value of the variable, or the first line of the file that `<name>_FILE` names. Its password
    /// is masked.
    pub fn optional_url(&mut self, name: &str, doc: &str) -> Option<String> {
        let value = self.value_or_file(name);
        self.note(name, value.as_deref().map(mask_url).unwrap_or_default(), format_args!("{doc} (or {name}_FILE)"), value.is_some());
        value
    }

    fn value_or_file(&mut self, name: &str) -> Option<String> {
        match (self.get(name), self.get(&format!("{name}_FILE"))) {
            (Some(value), _) => Some(value),
            (None, Some(path)) => match std::fs::read_to_string(&path) {
                Ok(text) => text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()),
                Err(error) => {
                    self.refuse(&format!("{name}_FILE"), format_args!("cannot read {path}: {error}"));
                    None
                }
            },
            (None, None) => None,
        }
    }

    /// A connection URL with a password inside; masked like a secret.
    pub fn url(&mut self, name: &str, default: Option<&str>, doc: &str) -> SecretString {
        match default {
            Some(default) => self.string(name, default, doc).into(),
            None => self.required(name, doc).into(),
        }
    }
}

/// Hides the password of a URL.
pub fn mask_url(text: &str) -> String {
    let hidden = || {
        let (scheme, rest) = text.split_once("://")?;
        let authority_end = rest.find('/').unwrap_or(rest.len());
        let (user, host) = rest[..authority_end].rsplit_once('@')?;
        let (name, _) = user.split_once(':')?;
        Some(format!("{scheme}://{name}:***@{host}{}", &rest[authority_end..]))
    };
    hidden().unwrap_or_else(|| text.to_owned())
}

/// Whether a secret is long enough to be one.
pub fn strong(secret: &SecretString) -> bool {
    secret.expose_secret().len() >= 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(pairs: &[(&str, &str)]) -> Source {
        Source::new(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn collects_every_error() {
        let mut s = source(&[("A", "x"), ("B", "99"), ("C", "maybe"), ("E", "nowhere")]);
        assert_eq!(s.number("A", 1, 1..=10, "a"), 1);
        assert_eq!(s.number("B", 2, 1..=10, "b"), 2);
        assert!(s.flag("C", true, "c"));
        s.secret("D", "d");
        s.address("E", "127.0.0.1:1", "e");
        s.required("F", "f");
        assert_eq!(s.errors().len(), 6, "{:?}", s.errors());
    }

    #[test]
    fn secrets_are_masked_and_may_come_from_a_file() {
        let path = std::env::temp_dir().join(format!("secret-{}", crate::ids::new()));
        std::fs::write(&path, "from a file\n").unwrap();
        let mut s = source(&[("A", "hunter2"), ("B_FILE", path.to_str().unwrap()), ("U", "postgres://me:hunter2@db/shop")]);
        assert_eq!(s.secret("A", "a").expose_secret(), "hunter2");
        assert_eq!(s.secret("B", "b").expose_secret(), "from a file");
        s.required("U", "u");
        std::fs::write(&path, "postgres://me:hunter2@db/shop\n").unwrap();
        let mut from_file = source(&[("V_FILE", path.to_str().unwrap())]);
        assert_eq!(from_file.optional_url("V", "v").as_deref(), Some("postgres://me:hunter2@db/shop"));
        assert!(from_file.settings().any(|x| x.value == "postgres://me:***@db/shop"), "{:?}", from_file.settings().collect::<Vec<_>>());
        assert!(s.settings().all(|x| !x.value.contains("hunter2")), "{:?}", s.settings().collect::<Vec<_>>());
        assert!(s.errors().is_empty());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn defaults_hold_when_nothing_is_set() {
        let mut s = source(&[("A", " ")]);
        assert_eq!(s.duration_ms("A", 250, 1..=1000, "a"), Duration::from_millis(250));
        assert_eq!(s.address("B", "127.0.0.1:5", "b").port(), 5);
        assert!(s.errors().is_empty());
    }
}
