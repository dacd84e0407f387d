//! How roles prove to each other who they are: `<role>.<unix expiry>.<hmac>`, short-lived, under one shared secret.

use crate::{clock, error::Fault};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderValue;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;
use std::sync::{Arc, Mutex};

/// Request metadata that carries a peer credential. The edge strips it from what clients send.
pub const PEER_HEADER: &str = "x-mercato-peer";

/// Life of a credential in seconds.
const LIFE: i64 = 60;
/// Seconds by which clocks may differ.
const LEEWAY: i64 = 5;

/// Makes the credential of one role and verifies those of others.
#[derive(Clone)]
pub struct PeerCredentials {
    secret: SecretString,
    current: Arc<Mutex<Option<(i64, HeaderValue)>>>,
}

impl PeerCredentials {
    /// With the secret all roles share.
    pub fn new(secret: SecretString) -> Self {
        Self { secret, current: Arc::default() }
    }

    /// For another role of the same process.
    pub(crate) fn fresh(&self) -> Self {
        Self::new(self.secret.clone())
    }

    /// The header value `role` sends now. Cached for half its life; use one instance a role.
    pub fn header(&self, role: &str) -> HeaderValue {
        let now = clock::unix_seconds();
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*current {
            Some((until, value)) if now < *until => value.clone(),
            _ => {
                let claim = format!("{role}.{}", now + LIFE);
                let text = format!("{claim}.{}", URL_SAFE_NO_PAD.encode(self.mac(&claim).finalize().into_bytes()));
                let value = HeaderValue::from_str(&text).expect("role names are ascii");
                *current = Some((now + LIFE / 2, value.clone()));
                value
            }
        }
    }

    /// The role that made this credential.
    ///
    /// # Errors
    /// [`Fault::TokenInvalid`].
    pub fn verify(&self, credential: &str) -> Result<String, Fault> {
        let refused = |why: &str| Fault::TokenInvalid(format!("peer credential: {why}"));
        let (claim, signature) = credential.rsplit_once('.').ok_or_else(|| refused("damaged"))?;
        let (role, expiry) = claim.rsplit_once('.').ok_or_else(|| refused("damaged"))?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| refused("damaged"))?;
        self.mac(claim).verify_slice(&signature).map_err(|_| refused("not genuine"))?;
        let expiry: i64 = expiry.parse().map_err(|_| refused("damaged"))?;
        if expiry + LEEWAY < clock::unix_seconds() { Err(refused("expired")) } else { Ok(role.to_owned()) }
    }

    fn mac(&self, claim: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.secret.expose_secret().as_bytes()).expect("hmac takes keys of any length");
        mac.update(claim.as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_makes_a_credential() {
        let ours = PeerCredentials::new("0123456789abcdef".into());
        let header = ours.header("ordering").to_str().unwrap().to_owned();
        assert_eq!(ours.verify(&header).unwrap(), "ordering");
        assert!(PeerCredentials::new("another".into()).verify(&header).is_err());
        assert!(ours.verify(&header.replacen("ordering", "customer", 1)).is_err());
        assert!(ours.verify("a.b.c").is_err());
        let claim = format!("ordering.{}", clock::unix_seconds() - 60);
        let old = format!("{claim}.{}", URL_SAFE_NO_PAD.encode(ours.mac(&claim).finalize().into_bytes()));
        assert!(ours.verify(&old).is_err());
    }
}
