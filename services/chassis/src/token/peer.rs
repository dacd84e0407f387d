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
    other: Option<SecretString>,
    current: Arc<Mutex<Option<(i64, HeaderValue)>>>,
}

impl PeerCredentials {
    /// With the secret all roles share.
    pub fn new(secret: SecretString) -> Self {
        Self { secret, other: None, current: Arc::default() }
    }

    /// Accepts credentials of this secret as well, while the secret is being changed.
    #[must_use]
    pub fn accepting(self, other: SecretString) -> Self {
        Self { other: Some(other), ..self }
    }

    /// For another role of the same process.
    pub(crate) fn fresh(&self) -> Self {
        Self { current: Arc::default(), ..self.clone() }
    }

    /// The header value `role` sends now. Cached for half its life; use one instance a role.
    pub fn header(&self, role: &str) -> HeaderValue {
        let now = clock::unix_seconds();
        let mut current = self.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*current {
            Some((until, value)) if now < *until => value.clone(),
            _ => {
                let claim = format!("{role}.{}", now + LIFE);
                let text = format!("{claim}.{}", URL_SAFE_NO_PAD.encode(mac(&self.secret, &claim).finalize().into_bytes()));
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
        let made_with = |secret: &SecretString| mac(secret, claim).verify_slice(&signature).is_ok();
        if !made_with(&self.secret) && !self.other.as_ref().is_some_and(made_with) {
            return Err(refused("not genuine"));
        }
        let expiry: i64 = expiry.parse().map_err(|_| refused("damaged"))?;
        if expiry + LEEWAY < clock::unix_seconds() { Err(refused("expired")) } else { Ok(role.to_owned()) }
    }
}

fn mac(secret: &SecretString, claim: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).expect("hmac takes keys of any length");
    mac.update(claim.as_bytes());
    mac
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
        let old = format!("{claim}.{}", URL_SAFE_NO_PAD.encode(mac(&ours.secret, &claim).finalize().into_bytes()));
        assert!(ours.verify(&old).is_err());
    }

    /// The three rollouts of a change: the next secret is accepted, then used, then alone. Neighbours are one rollout apart.
    #[test]
    fn a_secret_is_changed_while_everybody_goes_on_talking() {
        let (a, b) = ("0123456789abcdef", "fedcba9876543210");
        let rollouts = [
            PeerCredentials::new(a.into()),
            PeerCredentials::new(a.into()).accepting(b.into()),
            PeerCredentials::new(b.into()).accepting(a.into()),
            PeerCredentials::new(b.into()),
        ];
        for pair in rollouts.windows(2) {
            for (from, to) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
                assert!(to.verify(from.fresh().header("ordering").to_str().unwrap()).is_ok());
            }
        }
        assert!(rollouts[3].verify(rollouts[0].header("ordering").to_str().unwrap()).is_err());
    }
}
