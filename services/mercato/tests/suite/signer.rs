//! A signing key of our own among the published ones: a bad token can so differ from a good one in a single respect.

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use sqlx::{Connection, PgConnection};
use std::time::{SystemTime, UNIX_EPOCH};

const KID: &str = "suite";

/// Signs tokens.
pub struct Signer {
    kid: String,
    key: SigningKey,
}

impl Signer {
    /// Makes a key and publishes it for a day. It never signs for the shop, which has a newer one.
    pub async fn publish(customer_database: &str) -> Result<Self> {
        Self::publish_as(KID, customer_database).await
    }

    /// The same under a name of its own.
    pub async fn publish_as(kid: &str, customer_database: &str) -> Result<Self> {
        let key = SigningKey::from_bytes(&rand::random());
        let mut database = PgConnection::connect(customer_database).await.context("connect to the customer database")?;
        sqlx::query(
            "insert into signing_key (kid, public_key, sealed_key, active_from, retired_at)
             values ($1, $2, $3, now() - interval '1 day', now() + interval '1 day')",
        )
        .bind(kid)
        .bind(key.verifying_key().as_bytes().to_vec())
        .bind(Vec::<u8>::new())
        .execute(&mut database)
        .await
        .context("publish a key")?;
        Ok(Self { kid: kid.to_owned(), key })
    }

    /// The claims of a good token for a subject of its own.
    pub fn claims(&self, roles: &[&str]) -> Value {
        let now = unix();
        json!({
            "iss": "https://mercato.local", "aud": "mercato-api", "sub": subject(), "roles": roles, "iat": now, "exp": now + 300,
        })
    }

    /// A good token.
    pub fn good(&self, roles: &[&str]) -> String {
        self.sign(&self.claims(roles))
    }

    /// These claims, signed with the published key.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.key, claims)
    }

    /// These claims, signed with a key nobody published, under the name of the published one.
    pub fn sign_with_another(&self, claims: &Value) -> String {
        self.sign_with(&SigningKey::from_bytes(&rand::random()), claims)
    }

    /// These claims under a header with something more, or something else, signed with the published key.
    pub fn sign_under(&self, more: &Value, claims: &Value) -> String {
        self.seal(&self.key, self.header("EdDSA", more), claims)
    }

    /// The same, signed with a key of the caller's, which the header shows as the one to verify with.
    pub fn sign_under_own(&self, claims: &Value) -> String {
        let own = SigningKey::from_bytes(&rand::random());
        let shown = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(own.verifying_key().as_bytes()), "kid": self.kid });
        self.seal(&own, self.header("EdDSA", &json!({ "jwk": shown })), claims)
    }

    fn header(&self, algorithm: &str, more: &Value) -> Value {
        let mut header = json!({ "alg": algorithm, "typ": "JWT", "kid": self.kid });
        header.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        header
    }

    fn seal(&self, key: &SigningKey, header: Value, claims: &Value) -> String {
        let text = [header, claims.clone()].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(key.sign(text.as_bytes()).to_bytes()))
    }

    fn unsigned(&self, algorithm: &str, claims: &Value) -> String {
        [self.header(algorithm, &json!({})), claims.clone()].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".")
    }

    fn sign_with(&self, key: &SigningKey, claims: &Value) -> String {
        let text = self.unsigned("EdDSA", claims);
        let signature = key.sign(text.as_bytes()).to_bytes();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The classic confusion: HMAC with the public key, which everybody has, as the secret.
    pub fn sign_as_hmac(&self, claims: &Value) -> String {
        let text = self.unsigned("HS256", claims);
        let mut mac = Hmac::<Sha256>::new_from_slice(self.key.verifying_key().as_bytes()).expect("hmac takes keys of any length");
        mac.update(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    /// Not signed at all, and saying so.
    pub fn sign_with_nothing(&self, claims: &Value) -> String {
        format!("{}.", self.unsigned("none", claims))
    }
}

/// A random UUID.
pub fn subject() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

/// Seconds since 1970.
pub fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}
