//! Signing keys: made, sealed, published, retired.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use jsonwebtoken::EncodingKey;
use mercato_chassis::clock;
use mercato_chassis::error::Fault;
use mercato_chassis::pg::Db;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::seal::Seal;
use crate::domain::keys::{Policy, Step, Times, plan};
use crate::store;

/// Time a rotation may take, waiting for another instance's included.
const BUDGET: Duration = Duration::from_secs(5);

/// The key that signs now.
pub struct Signer {
    /// Goes into the token's header.
    pub kid: String,
    /// Its private half.
    pub key: EncodingKey,
}

/// Keys of this installation. Nothing is held in memory: a key that an operator withdraws signs no further token.
#[derive(Clone)]
pub struct Keys {
    db: Db,
    seal: Seal,
    policy: Policy,
}

impl Keys {
    /// Keys kept in `db`.
    pub fn new(db: Db, seal: Seal, policy: Policy) -> Keys {
        Keys { db, seal, policy }
    }

    /// Makes the next key when it is time, and removes those that no token can need any more. Any number of instances may do so at once.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn rotate(&self) -> Result<(), Fault> {
        let (seal, policy) = (self.seal.clone(), self.policy);
        self.db
            .uow_within(BUDGET, move |tx| {
                let seal = seal.clone();
                Box::pin(async move { rotate(tx, &seal, &policy).await })
            })
            .await
    }

    /// Checks that every key opens with the present secret.
    ///
    /// # Errors
    /// [`Fault::Internal`] when one does not.
    pub async fn check(&self) -> Result<(), Fault> {
        for key in store::keys::all(self.db.read()).await? {
            self.open(&key.kid, &key.sealed_key)?;
        }
        Ok(())
    }

    /// The key that signs now. When an operator withdrew every key, a new one is made here.
    ///
    /// # Errors
    /// [`Fault::Internal`] when the key does not open with the present secret, and those of the database.
    pub async fn signer(&self) -> Result<Signer, Fault> {
        let mut signing = store::keys::signing(self.db.read()).await?;
        if signing.is_none() {
            self.rotate().await?;
            signing = store::keys::signing(self.db.read()).await?;
        }
        let stored = signing.ok_or_else(|| Fault::Internal("no signing key is active".into()))?;
        let private = self.open(&stored.kid, &stored.sealed_key)?;
        let der = private.to_pkcs8_der().map_err(|error| Fault::Internal(format!("a signing key cannot be encoded: {error}")))?;
        Ok(Signer { kid: stored.kid, key: EncodingKey::from_ed_der(der.as_bytes()) })
    }

    /// The public keys as a JSON Web Key Set (RFC 7517, RFC 8037).
    ///
    /// # Errors
    /// Those of the database.
    pub async fn key_set(&self) -> Result<String, Fault> {
        let now = store::keys::now(self.db.read()).await?;
        let keys = store::keys::all(self.db.read()).await?;
        let published = keys.iter().filter(|key| key.times.published(now, &self.policy));
        let set: Vec<_> = published
            .map(|key| {
                let x = URL_SAFE_NO_PAD.encode(&key.public_key);
                serde_json::json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.kid, "x": x})
            })
            .collect();
        Ok(serde_json::json!({ "keys": set }).to_string())
    }

    fn open(&self, kid: &str, sealed: &[u8]) -> Result<SigningKey, Fault> {
        let wrong = || Fault::Internal(format!("signing key `{kid}` does not open: MERCATO_KEY_SECRET is not the one it was sealed with"));
        let secret: [u8; 32] = self.seal.open(kid, sealed).and_then(|plain| plain.try_into().ok()).ok_or_else(wrong)?;
        Ok(SigningKey::from_bytes(&secret))
    }
}

async fn rotate(tx: &mut PgConnection, seal: &Seal, policy: &Policy) -> Result<(), Fault> {
    store::keys::lock(tx).await?;
    let now = store::keys::now(&mut *tx).await?;
    let keys = store::keys::all(&mut *tx).await?;
    for key in &keys {
        if let Some(sealed) = seal.renewed(&key.kid, &key.sealed_key) {
            store::keys::seal_anew(tx, &key.kid, &sealed).await?;
            tracing::info!(kid = key.kid, "a signing key was sealed with the new secret");
        }
    }
    let times: Vec<Times> = keys.iter().map(|key| key.times).collect();
    let active_from = match plan(now, &times, policy) {
        Step::Wait => None,
        Step::CreateNow => Some(now),
        Step::CreateAt(at) => Some(at),
    };
    if let Some(active_from) = active_from {
        let mut secret = [0; 32];
        rand::fill(&mut secret);
        let public = SigningKey::from_bytes(&secret).verifying_key().to_bytes();
        let kid = thumbprint(&public);
        store::keys::take_over(tx, &kid, &public, &seal.seal(&kid, &secret), active_from).await?;
        tracing::info!(%kid, %active_from, "a new signing key was made");
    }
    let removed = store::keys::purge(tx, policy.afterlife()).await?;
    if removed > 0 {
        tracing::info!(removed, at = %clock::now(), "retired signing keys were removed");
    }
    Ok(())
}

/// The JWK thumbprint of an Ed25519 key (RFC 7638, RFC 8037 appendix A.3): the same key always has the same name.
fn thumbprint(public: &[u8; 32]) -> String {
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(public));
    URL_SAFE_NO_PAD.encode(Sha256::digest(jwk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_the_standard() {
        let public = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        assert_eq!(thumbprint(&public.try_into().unwrap()), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
