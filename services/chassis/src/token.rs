//! Verifies tokens and peer credentials. Nothing here can make a token.

mod peer;

pub use peer::{PEER_HEADER, PeerCredentials};

use crate::{call::Subject, clock, config::Source, error::Fault, tasks::Tasks};
use async_trait::async_trait;
use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    errors::ErrorKind,
    jwk::{AlgorithmParameters, EllipticCurve, JwkSet, OctetKeyPairParameters},
};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};
use uuid::Uuid;

/// Seconds by which clocks may differ.
const LEEWAY: u64 = 5;
/// How long a verified token is believed without looking again.
const BELIEVED: Duration = Duration::from_secs(60);
/// How often keys are fetched anew.
const REFRESH: Duration = Duration::from_secs(60);
/// The least time between two fetches that unknown key ids cause; before the first success `FIRST_PAUSE`.
const PAUSE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest token we look at.
const LONGEST: usize = 8 * 1024;

/// Where public keys come from.
#[async_trait]
pub trait KeySource: Send + Sync {
    /// The keys as a JSON Web Key Set (RFC 7517).
    ///
    /// # Errors
    /// When they cannot be had.
    async fn json_web_keys(&self) -> Result<String, Fault>;
}

/// What a token says. Every claim but `jti` and `sid` must be there, with this type.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Claims {
    /// Who signed.
    pub iss: String,
    /// For whom.
    pub aud: String,
    /// The subject's id.
    pub sub: Uuid,
    /// Roles held.
    #[serde(default)]
    pub roles: Vec<String>,
    /// When it was signed, in seconds since 1970.
    pub iat: i64,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// The token's own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<Uuid>,
    /// The session it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<Uuid>,
}

/// What a token must say to be for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSettings {
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
}

impl TokenSettings {
    /// Reads `MERCATO_TOKEN_ISSUER` and `MERCATO_TOKEN_AUDIENCE`; the signer reads the same.
    pub fn read(source: &mut Source) -> Self {
        Self {
            issuer: source.string("MERCATO_TOKEN_ISSUER", "https://mercato.local", "iss claim of our tokens"),
            audience: source.string("MERCATO_TOKEN_AUDIENCE", "mercato-api", "aud claim of our tokens"),
        }
    }
}

type Keys = HashMap<String, DecodingKey>;

/// Verifies tokens. Clones share keys and results.
#[derive(Clone)]
pub struct Verifier {
    inner: Arc<Inner>,
}

struct Inner {
    source: Arc<dyn KeySource>,
    validation: Validation,
    keys: RwLock<Option<Arc<Keys>>>,
    /// When keys were last fetched; held while fetching, so that one fetch serves all.
    fetched: Mutex<Option<Instant>>,
    verified: moka::future::Cache<[u8; 32], (Arc<Subject>, i64)>,
}

impl Verifier {
    /// Verifies against these keys.
    pub fn new(settings: &TokenSettings, source: Arc<dyn KeySource>) -> Self {
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let verified = moka::future::Cache::builder().max_capacity(20_000).time_to_live(BELIEVED).build();
        let inner = Inner { source, validation, keys: RwLock::default(), fetched: Mutex::default(), verified };
        Self { inner: Arc::new(inner) }
    }

    /// Whom the token speaks for.
    ///
    /// # Errors
    /// [`Fault::TokenInvalid`], or [`Fault::Unavailable`] while no keys could be had at all.
    pub async fn verify(&self, token: &str) -> Result<Arc<Subject>, Fault> {
        if token.len() > LONGEST {
            return Err(Fault::TokenInvalid("too long".into()));
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        if let Some((subject, exp)) = self.inner.verified.get(&digest).await
            && clock::unix_seconds() < exp
        {
            return Ok(subject);
        }
        let claims = self.check(token).await?;
        let subject = Arc::new(Subject { id: claims.sub, roles: claims.roles, session: claims.sid });
        self.inner.verified.insert(digest, (subject.clone(), claims.exp)).await;
        Ok(subject)
    }

    async fn check(&self, token: &str) -> Result<Claims, Fault> {
        let header = decode_header(token).map_err(|e| refusal(&e))?;
        if header.alg != Algorithm::EdDSA {
            return Err(Fault::TokenInvalid("not signed with EdDSA".into()));
        }
        let kid = header.kid.ok_or_else(|| Fault::TokenInvalid("no key id".into()))?;
        let key = self.key(&kid).await?;
        let claims = decode::<Claims>(token, &key, &self.inner.validation).map_err(|e| refusal(&e))?.claims;
        if claims.iat > clock::unix_seconds() + LEEWAY as i64 {
            return Err(Fault::TokenInvalid("signed in the future".into()));
        }
        Ok(claims)
    }

    async fn key(&self, kid: &str) -> Result<DecodingKey, Fault> {
        let known = |keys: &Option<Arc<Keys>>| keys.as_ref().and_then(|k| k.get(kid).cloned());
        if let Some(key) = known(&self.current()) {
            return Ok(key);
        }
        let pause = if self.current().is_some() { PAUSE } else { FIRST_PAUSE };
        self.refresh(pause).await?;
        known(&self.current()).ok_or_else(|| Fault::TokenInvalid("signed with an unknown key".into()))
    }

    fn current(&self) -> Option<Arc<Keys>> {
        self.inner.keys.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Fetches keys unless that was done less than `pause` ago. Fails only while there are no keys at all.
    ///
    /// # Errors
    /// [`Fault::Unavailable`].
    pub async fn refresh(&self, pause: Duration) -> Result<(), Fault> {
        let mut fetched = self.inner.fetched.lock().await;
        if fetched.is_none_or(|at| at.elapsed() >= pause) {
            *fetched = Some(Instant::now());
            match self.fetch().await {
                Ok(keys) => *self.inner.keys.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Arc::new(keys)),
                Err(error) if self.current().is_some() => tracing::warn!(%error, "the keys could not be fetched, the old ones stay"),
                Err(error) => return Err(error),
            }
        }
        match self.current() {
            Some(_) => Ok(()),
            None => Err(Fault::Unavailable { peer: "token keys".into(), detail: "no keys could be fetched yet".into() }),
        }
    }

    async fn fetch(&self) -> Result<Keys, Fault> {
        let text = self.inner.source.json_web_keys().await.map_err(|e| unavailable(&e))?;
        let set: JwkSet = serde_json::from_str(&text).map_err(|e| unavailable(&e))?;
        let mut keys = Keys::new();
        for jwk in &set.keys {
            let (Some(kid), AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters { curve: EllipticCurve::Ed25519, x, .. })) =
                (&jwk.common.key_id, &jwk.algorithm)
            else {
                continue;
            };
            keys.insert(kid.clone(), DecodingKey::from_ed_components(x).map_err(|e| unavailable(&e))?);
        }
        if keys.is_empty() { Err(unavailable(&"the key set has no Ed25519 key with a key id")) } else { Ok(keys) }
    }

    /// Keeps the keys fresh until the process stops.
    pub fn keep_fresh(&self, tasks: &Tasks) {
        let (verifier, token) = (self.clone(), tasks.token());
        tasks.spawn("token-keys", async move {
            loop {
                let wait = match verifier.refresh(FIRST_PAUSE).await {
                    Ok(()) => REFRESH,
                    Err(error) => {
                        tracing::warn!(%error, "no token keys yet");
                        Duration::from_secs(1)
                    }
                };
                tokio::select! {
                    () = token.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
    }
}

fn unavailable(detail: &dyn std::fmt::Display) -> Fault {
    Fault::Unavailable { peer: "token keys".into(), detail: detail.to_string() }
}

fn refusal(error: &jsonwebtoken::errors::Error) -> Fault {
    let text = match error.kind() {
        ErrorKind::ExpiredSignature => "expired",
        ErrorKind::InvalidIssuer => "from another issuer",
        ErrorKind::InvalidAudience => "for another audience",
        ErrorKind::InvalidSignature => "the signature does not fit",
        ErrorKind::ImmatureSignature => "not valid yet",
        ErrorKind::MissingRequiredClaim(_) => "a claim is missing",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => "not signed with EdDSA",
        _ => "not a token",
    };
    Fault::TokenInvalid(text.into())
}

/// Verifies the example of RFC 8037 A.4, and refuses a damaged copy: the crypto of this build works.
///
/// # Errors
/// What does not work.
pub fn self_test() -> Result<(), String> {
    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const MESSAGE: &[u8] = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    const SIGNATURE: &str = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    let key = DecodingKey::from_ed_components(X).map_err(|e| e.to_string())?;
    let verify = |message: &[u8]| jsonwebtoken::crypto::verify(SIGNATURE, message, &key, Algorithm::EdDSA).map_err(|e| e.to_string());
    if !verify(MESSAGE)? {
        return Err("a good signature was refused".into());
    }
    if verify(b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmd").unwrap_or(false) {
        return Err("a bad signature was accepted".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_self_test_passes() {
        super::self_test().unwrap();
    }
}
