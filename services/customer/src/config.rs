//! Settings of customer.

use std::time::Duration;

use mercato_chassis::config::Source;
use mercato_chassis::token::TokenSettings;
use secrecy::ExposeSecret;

use crate::app::seal::Seal;
use crate::domain::keys::Policy;

/// Everything an operator can turn.
#[derive(Clone)]
pub struct Settings {
    /// `iss` and `aud` of access tokens: what every role demands of them.
    pub tokens: TokenSettings,
    /// Life of a refresh token; every exchange starts it again.
    pub refresh_life: Duration,
    /// Key rotation, and the life of an access token.
    pub keys: Policy,
    /// Seals what must not lie in the database in clear.
    pub seal: Seal,
}

impl Settings {
    /// Reads the settings; what is wrong is collected in `source`.
    pub fn read(source: &mut Source) -> Settings {
        let tokens = TokenSettings::read(source);
        let token_life =
            source.duration_ms("MERCATO_ACCESS_TOKEN_MS", 600_000, 300_000..=900_000, "life of an access token in milliseconds");
        let refresh_life = source.duration_ms(
            "MERCATO_REFRESH_TOKEN_MS",
            30 * 86_400_000,
            3_600_000..=90 * 86_400_000,
            "life of a refresh token in milliseconds",
        );
        let publish_ahead = source.duration_ms(
            "MERCATO_KEY_PUBLISH_AHEAD_MS",
            600_000,
            60_000..=86_400_000,
            "how long a new signing key is published before it signs, in milliseconds; no verifier may cache keys for longer",
        );
        let rotate_every = source.duration_ms(
            "MERCATO_KEY_ROTATE_MS",
            30 * 86_400_000,
            3_600_000..=366 * 86_400_000,
            "how long a key signs, in milliseconds",
        );
        if rotate_every < publish_ahead.saturating_mul(2) {
            source.refuse("MERCATO_KEY_ROTATE_MS", "must be at least twice MERCATO_KEY_PUBLISH_AHEAD_MS");
        }
        let secret = source.secret("MERCATO_KEY_SECRET", "64 hex digits that seal the signing keys in the database");
        let seal = Seal::from_hex(secret.expose_secret()).unwrap_or_else(|| {
            if !secret.expose_secret().is_empty() {
                source.refuse("MERCATO_KEY_SECRET", "must be 64 hex digits");
            }
            Seal::new([0; 32])
        });
        let doc = "opens as well what it sealed, while MERCATO_KEY_SECRET is being changed: the next one before, the last one after";
        let seal = match source.optional_secret("MERCATO_KEY_SECRET_OTHER", doc) {
            None => seal,
            Some(other) => match Seal::from_hex(other.expose_secret()) {
                Some(other) => seal.opening(other),
                None => {
                    source.refuse("MERCATO_KEY_SECRET_OTHER", "must be 64 hex digits");
                    seal
                }
            },
        };
        Settings { tokens, refresh_life, keys: Policy { rotate_every, publish_ahead, token_life }, seal }
    }
}
