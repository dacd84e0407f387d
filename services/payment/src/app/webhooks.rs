//! What a provider tells us by itself. It is never believed: a signed, fresh, new message makes us look the payment up, no more.

use super::Payments;
use crate::{
    domain::reference_of_key,
    error::Error,
    store::{self, Note},
};
use futures_util::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use mercato_chassis::{
    Fault,
    batch::{Batcher, together},
    pg::Db,
    tasks::Tasks,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::Sha256;
use std::{sync::Arc, time::Duration};
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// Messages signed longer ago, or further ahead, are refused, in seconds.
const FRESH: i64 = 300;
/// Larger bodies are refused unread.
const LARGEST: usize = 64 * 1024;

/// A message of the provider.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// The provider's id of the message; each has its effect once.
    pub event_id: String,
    /// What it says happened; for people only.
    #[serde(rename = "type")]
    pub kind: String,
    /// Our reference of the payment.
    pub reference: String,
}

/// The header `x-signature`: `t=<unix>,v1=<hex>`, with a further `v1` while the secret is being changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Signature {
    time: i64,
    macs: Vec<[u8; 32]>,
}

impl Signature {
    /// Reads the header.
    pub fn parse(header: &str) -> Option<Self> {
        let mut time = None;
        let mut macs = Vec::new();
        for part in header.split(',').take(8) {
            match part.trim().split_once('=')? {
                ("t", value) if time.is_none() => time = Some(value.parse().ok()?),
                ("t", _) => return None,
                ("v1", value) => macs.push(hex(value)?),
                _ => {}
            }
        }
        Some(Self { time: time?, macs })
    }

    /// Whether one of the secrets made it for this body, not longer than five minutes ago.
    pub fn holds(&self, secrets: &[SecretString], body: &[u8], now: i64) -> bool {
        let fresh = self.time.abs_diff(now) <= FRESH.unsigned_abs();
        let mut right = false;
        for secret in secrets {
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).expect("hmac takes keys of any length");
            mac.update(self.time.to_string().as_bytes());
            mac.update(b".");
            mac.update(body);
            let expected = mac.finalize().into_bytes();
            for given in &self.macs {
                right |= bool::from(given.ct_eq(&expected[..]));
            }
        }
        fresh && right
    }
}

fn hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(bytes)
}

impl Webhook {
    /// Verifies and reads a message.
    ///
    /// # Errors
    /// [`Error::SignatureInvalid`], or [`Error::WebhookUnreadable`] when the signature holds and the body is not a message.
    pub fn open(secrets: &[SecretString], header: Option<&str>, body: &[u8], now: i64) -> Result<Self, Error> {
        let signature = header.and_then(Signature::parse).ok_or(Error::SignatureInvalid)?;
        if body.len() > LARGEST || !signature.holds(secrets, body, now) {
            return Err(Error::SignatureInvalid);
        }
        let webhook: Self = serde_json::from_slice(body).map_err(|_| Error::WebhookUnreadable)?;
        let short = |text: &str, most| !text.is_empty() && text.len() <= most;
        if short(&webhook.event_id, 128) && short(&webhook.kind, 64) && short(&webhook.reference, 255) {
            Ok(webhook)
        } else {
            Err(Error::WebhookUnreadable)
        }
    }
}

/// Between two batches under load.
const PACE: Duration = Duration::from_millis(40);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nothing is in doubt, so nothing is to be done, now or when it comes again.
    Idle,
    /// Noted, and the look-ups made due.
    New,
    /// Noted before.
    Repeated,
}

/// The entrance to the loop that notes messages: those that come while one transaction commits go into the next one together.
pub(super) type Entrance = Batcher<Arc<Note>, Result<Taken, Fault>>;

/// Starts the loop.
pub(super) fn entrance(db: &Db, tasks: &Tasks) -> Entrance {
    let db = db.clone();
    Batcher::paced(tasks, "webhooks", 1024, 256, PACE, move |batch| {
        let db = db.clone();
        Box::pin(async move {
            let orders: Vec<Uuid> = batch.iter().filter_map(|note: &Arc<Note>| note.order).collect();
            match db.look(|connection| Box::pin(async move { store::any_doubt(connection, &orders).await })).await {
                Ok(false) => batch.iter().map(|_| Ok(Taken::Idle)).collect(),
                Ok(true) => together(batch, move |part| note(db.clone(), part)).await,
                Err(fault) => batch.iter().map(|_| Err(fault.again())).collect(),
            }
        })
    })
}

fn note(db: Db, part: Vec<Arc<Note>>) -> BoxFuture<'static, Result<Vec<Taken>, Fault>> {
    Box::pin(async move {
        let unit = db.uow(move |tx| {
            let part = part.clone();
            Box::pin(async move { store::take_webhooks(tx, &part.iter().map(AsRef::as_ref).collect::<Vec<_>>()).await })
        });
        Ok::<_, Fault>(unit.await?.into_iter().map(|new| if new { Taken::New } else { Taken::Repeated }).collect())
    })
}

impl Payments {
    /// Notes a verified message and wakes the look-ups of its payment. One whose payment is not in doubt costs a share of one statement,
    /// and leaves nothing behind.
    ///
    /// # Errors
    /// Only faults of the store.
    pub async fn take(&self, webhook: Webhook) -> Result<(), Error> {
        let Webhook { event_id, kind, reference } = webhook;
        let order = reference_of_key(&reference);
        let note = Note { event_id, provider: self.provider.name(), kind, reference, order };
        let outcome = match self.hooks.submit(Arc::new(note)).await?? {
            Taken::Idle => "idle",
            Taken::New => "taken",
            Taken::Repeated => "repeated",
        };
        crate::metrics::WEBHOOKS.one([outcome]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"eventId":"e","type":"payment.captured","reference":"r"}"#;

    fn signed(secret: &str, time: i64, body: &[u8]) -> String {
        mercato_provider::sign(secret, time, body)
    }

    #[test]
    fn only_fresh_signatures_of_known_secrets_hold() {
        let secrets = [SecretString::from("the-present-secret"), SecretString::from("the-previous-secret")];
        let open = |header: &str, body: &[u8]| Webhook::open(&secrets, Some(header), body, 1000).is_ok();
        assert!(open(&signed("the-present-secret", 1000, BODY), BODY));
        assert!(open(&signed("the-previous-secret", 700, BODY), BODY));
        assert!(!open(&signed("another-secret-here", 1000, BODY), BODY));
        assert!(!open(&signed("the-present-secret", 699, BODY), BODY), "too old");
        assert!(!open(&signed("the-present-secret", 1301, BODY), BODY), "from the future");
        assert!(!open(&signed("the-present-secret", 1000, BODY), &BODY[1..]), "another body");
        assert!(!open(&signed("the-present-secret", 1000, BODY).replace("t=1000", "t=1001"), BODY), "another time");
        for header in ["", "t=1000", "t=x,v1=00", "v1=00", "t=1000,v1=zz", "t=1000,t=1000"] {
            assert!(!open(header, BODY), "{header}");
        }
        assert!(Webhook::open(&secrets, None, BODY, 1000).is_err());
        assert!(Webhook::open(&[], Some(&signed("the-present-secret", 1000, BODY)), BODY, 1000).is_err());
        let odd = br#"{"eventId":""}"#;
        assert!(matches!(
            Webhook::open(&secrets, Some(&signed("the-present-secret", 1000, odd)), odd, 1000),
            Err(Error::WebhookUnreadable)
        ));
    }
}
