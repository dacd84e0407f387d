//! Page tokens: a cursor nobody can forge, bound to the list it belongs to.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::sync::Arc;

const VERSION: u8 = 1;
const MAC: usize = 16;

/// A page token that is damaged, forged, or belongs to another list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page token does not belong to this list")]
pub struct PageTokenError;

/// Makes and reads page tokens.
#[derive(Clone)]
pub struct PageTokens {
    secret: Arc<[u8]>,
    other: Option<Arc<[u8]>>,
}

impl PageTokens {
    /// With this secret, the same on every instance.
    pub fn new(secret: &[u8]) -> Self {
        Self { secret: secret.into(), other: None }
    }

    /// Reads tokens of this secret as well, while the secret is being changed.
    #[must_use]
    pub fn accepting(self, other: &[u8]) -> Self {
        Self { other: Some(other.into()), ..self }
    }

    /// The token for a cursor. `bind` names everything the list depends on: method, filters, order, owner.
    pub fn encode(&self, bind: &[&str], cursor: &[u8]) -> String {
        let mut token = vec![VERSION];
        token.extend_from_slice(&mac(&self.secret, bind, cursor));
        token.extend_from_slice(cursor);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The cursor of a token made with the same `bind`.
    ///
    /// # Errors
    /// [`PageTokenError`].
    pub fn decode(&self, bind: &[&str], token: &str) -> Result<Vec<u8>, PageTokenError> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| PageTokenError)?;
        let (head, cursor) = bytes.split_at_checked(1 + MAC).ok_or(PageTokenError)?;
        let made_with = |secret: &[u8]| bool::from(subtle::ConstantTimeEq::ct_eq(&head[1..], &mac(secret, bind, cursor)[..]));
        let genuine = made_with(&self.secret) || self.other.as_deref().is_some_and(made_with);
        if head[0] == VERSION && genuine { Ok(cursor.to_vec()) } else { Err(PageTokenError) }
    }
}

fn mac(secret: &[u8], bind: &[&str], cursor: &[u8]) -> [u8; MAC] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("hmac takes keys of any length");
    mac.update(&(bind.len() as u64).to_be_bytes());
    for part in bind {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    mac.update(cursor);
    let full = mac.finalize().into_bytes();
    let mut short = [0; MAC];
    short.copy_from_slice(&full[..MAC]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_the_same_list_reads_a_token(bind in prop::collection::vec(".{0,8}", 0..4), other in prop::collection::vec(".{0,8}", 0..4), cursor: Vec<u8>) {
            let tokens = PageTokens::new(b"secret");
            let bind: Vec<&str> = bind.iter().map(String::as_str).collect();
            let other: Vec<&str> = other.iter().map(String::as_str).collect();
            let token = tokens.encode(&bind, &cursor);
            prop_assert_eq!(tokens.decode(&bind, &token), Ok(cursor.clone()));
            prop_assert_eq!(tokens.decode(&other, &token).is_ok(), bind == other);
            prop_assert_eq!(PageTokens::new(b"else").decode(&bind, &token), Err(PageTokenError));
            let changed = PageTokens::new(b"else").accepting(b"secret");
            prop_assert_eq!(changed.decode(&bind, &token), Ok(cursor.clone()));
            prop_assert_ne!(changed.encode(&bind, &cursor), token.clone());
        }

        #[test]
        fn damage_is_noticed(cursor in prop::collection::vec(any::<u8>(), 0..40), place: prop::sample::Index, bit in 0..8) {
            let tokens = PageTokens::new(b"secret");
            let mut bytes = URL_SAFE_NO_PAD.decode(tokens.encode(&["a"], &cursor)).unwrap();
            let place = place.index(bytes.len());
            bytes[place] ^= 1_u8 << bit;
            prop_assert_eq!(tokens.decode(&["a"], &URL_SAFE_NO_PAD.encode(bytes)), Err(PageTokenError));
        }

        #[test]
        fn any_text_is_refused(text in "\\PC{0,80}") {
            prop_assert_eq!(PageTokens::new(b"secret").decode(&[], &text), Err(PageTokenError));
        }
    }
}
