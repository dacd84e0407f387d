//! The tokens a session is held by: signed access tokens, random refresh tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, Header};
use mercato_chassis::error::Fault;
use mercato_chassis::token::Claims;
use mercato_chassis::{clock, ids};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::keys::Signer;
use crate::config::Settings;
use crate::store::sessions::TokenHash;

/// Bytes of chance in a refresh token.
const REFRESH_BYTES: usize = 32;

/// A new refresh token. The text goes to the client and nowhere else.
#[derive(Clone)]
pub struct RefreshToken {
    /// What the client gets.
    pub text: SecretString,
    /// What we keep.
    pub hash: TokenHash,
}

impl RefreshToken {
    /// A token nobody can guess.
    pub fn new() -> RefreshToken {
        let mut bytes = [0; REFRESH_BYTES];
        rand::fill(&mut bytes);
        let text = SecretString::from(URL_SAFE_NO_PAD.encode(bytes));
        RefreshToken { hash: hash(&text), text }
    }
}

impl Default for RefreshToken {
    fn default() -> Self {
        Self::new()
    }
}

/// How a refresh token is stored. A fast hash is enough: there are 2^256 of them.
pub fn hash(token: &SecretString) -> TokenHash {
    Sha256::digest(token.expose_secret()).into()
}

/// Whom an access token speaks for.
pub struct Bearer<'a> {
    /// The customer.
    pub customer_id: Uuid,
    /// Its session.
    pub session_id: Uuid,
    /// Its roles.
    pub roles: &'a [String],
}

/// Signs an access token that lives from now on for as long as the settings say.
///
/// # Errors
/// [`Fault::Internal`] when the key cannot sign.
pub fn sign(signer: &Signer, settings: &Settings, bearer: &Bearer<'_>) -> Result<SecretString, Fault> {
    let iat = clock::unix_seconds();
    let life = i64::try_from(settings.keys.token_life.as_secs()).unwrap_or(i64::MAX);
    let claims = Claims {
        iss: settings.tokens.issuer.clone(),
        aud: settings.tokens.audience.clone(),
        sub: bearer.customer_id,
        roles: bearer.roles.to_vec(),
        iat,
        exp: iat.saturating_add(life),
        jti: Some(ids::new()),
        sid: Some(bearer.session_id),
    };
    let header = Header { kid: Some(signer.kid.clone()), ..Header::new(Algorithm::EdDSA) };
    let token = jsonwebtoken::encode(&header, &claims, &signer.key);
    token.map(SecretString::from).map_err(|error| Fault::Internal(format!("an access token could not be signed: {error}")))
}
