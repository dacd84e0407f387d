//! What the master secret is for: sealing private keys, and keyed hashes of things too guessable for a plain one.

use std::sync::Arc;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;

/// Bytes of the nonce in front of every ciphertext.
const NONCE: usize = 24;

/// The master secret. Neither printable nor comparable; wiped when dropped.
#[derive(Clone)]
pub struct Seal {
    secret: Arc<SecretBox<[u8; 32]>>,
    other: Option<Arc<SecretBox<[u8; 32]>>>,
}

impl Seal {
    /// From the secret itself.
    pub fn new(secret: [u8; 32]) -> Self {
        Self { secret: Arc::new(SecretBox::new(Box::new(secret))), other: None }
    }

    /// Opens what another secret sealed as well, while the secret is being changed.
    #[must_use]
    pub fn opening(self, other: Seal) -> Self {
        Self { other: Some(other.secret), ..self }
    }

    /// From 64 hex digits; `None` when it is anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut secret = [0; 32];
        for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Self::new(secret))
    }

    /// HMAC-SHA256 of `data` under a key of its own for each `purpose`.
    pub fn keyed_hash(&self, purpose: &str, data: &[u8]) -> [u8; 32] {
        hmac(&hmac(self.secret.expose_secret(), purpose.as_bytes()), data)
    }

    /// Encrypts `plain` so that it opens only together with `context`.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce);
        let payload = Payload { msg: plain, aad: context.as_bytes() };
        let sealed = cipher(&self.secret).encrypt(&XNonce::from(nonce), payload).expect("a key is far shorter than the cipher's limit");
        [&nonce[..], &sealed].concat()
    }

    /// Opens what [`Seal::seal`] made. `None`: other secret, other context, or damaged.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        open(&self.secret, context, sealed).or_else(|| open(self.other.as_ref()?, context, sealed))
    }

    /// What the other secret sealed, sealed with the present one; `None` when the present one opens it, or neither does.
    pub fn renewed(&self, context: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        match open(&self.secret, context, sealed) {
            Some(_) => None,
            None => Some(self.seal(context, &open(self.other.as_ref()?, context, sealed)?)),
        }
    }
}

fn open(secret: &SecretBox<[u8; 32]>, context: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE>()?;
    cipher(secret).decrypt(&XNonce::from(*nonce), Payload { msg: text, aad: context.as_bytes() }).ok()
}

fn cipher(secret: &SecretBox<[u8; 32]>) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&hmac(secret.expose_secret(), b"mercato/customer/signing-key").into())
}

fn hmac(key: &[u8; 32], data: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("hmac takes keys of any length");
    mac.update(data);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_64_hex_digits_are_a_secret() {
        assert!(Seal::from_hex(&"aF".repeat(32)).is_some());
        for wrong in ["", &"a".repeat(63), &"a".repeat(65), &"g".repeat(64), &"ä".repeat(32)] {
            assert!(Seal::from_hex(wrong).is_none(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn it_opens_with_the_same_secret_and_context_and_in_one_piece_only(
            secret: [u8; 32], other: [u8; 32], plain in proptest::collection::vec(any::<u8>(), 0..64), at: prop::sample::Index, bit in 0u8..8,
        ) {
            prop_assume!(secret != other);
            let seal = Seal::new(secret);
            let mut sealed = seal.seal("kid", &plain);
            prop_assert_eq!(seal.open("kid", &sealed), Some(plain.clone()));
            prop_assert_eq!(seal.open("dik", &sealed), None);
            prop_assert_eq!(Seal::new(other).open("kid", &sealed), None);
            let changed = Seal::new(other).opening(Seal::new(secret));
            prop_assert_eq!(changed.open("kid", &sealed), Some(plain.clone()));
            let renewed = changed.renewed("kid", &sealed).expect("the other secret sealed it");
            prop_assert_eq!(Seal::new(other).open("kid", &renewed), Some(plain));
            prop_assert_eq!(changed.renewed("kid", &renewed), None);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(seal.open("kid", &sealed), None);
            prop_assert_eq!(seal.open("kid", &sealed[..at]), None);
        }
    }
}
