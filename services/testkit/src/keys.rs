//! Keys that sign tokens for tests, good ones and bad ones.

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{SigningKey, pkcs8::EncodePrivateKey as _};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use mercato_chassis::{
    error::Fault,
    token::{Claims, KeySource},
};
use serde_json::{Value, json};
use std::sync::OnceLock;
use time::OffsetDateTime;
use uuid::Uuid;

const ISSUER: &str = "https://mercato.local";
const AUDIENCE: &str = "mercato-api";

/// A key pair and the tokens it can sign.
pub struct TestKeys {
    kid: String,
    signing: EncodingKey,
    public: String,
}

impl TestKeys {
    /// The pair that every sandbox of this process accepts.
    pub fn shared() -> &'static TestKeys {
        static SHARED: OnceLock<TestKeys> = OnceLock::new();
        SHARED.get_or_init(TestKeys::generate)
    }

    /// A new pair.
    pub fn generate() -> TestKeys {
        let pair = SigningKey::from_bytes(&rand::random());
        let document = pair.to_pkcs8_der().expect("an Ed25519 key fits into PKCS #8");
        TestKeys {
            kid: format!("test-{}", Uuid::now_v7()),
            signing: EncodingKey::from_ed_der(document.as_bytes()),
            public: URL_SAFE_NO_PAD.encode(pair.verifying_key().as_bytes()),
        }
    }

    /// The public key as a JSON Web Key.
    pub fn json_web_key(&self) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": self.kid, "x": self.public})
    }

    /// The claims of a good token.
    pub fn claims(subject: Uuid, roles: &[&str]) -> Claims {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            sub: subject,
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            iat: now,
            exp: now + 600,
            jti: Some(Uuid::now_v7()),
            sid: Some(Uuid::now_v7()),
        }
    }

    /// A good token.
    pub fn token(&self, subject: Uuid, roles: &[&str]) -> String {
        self.sign(&Self::claims(subject, roles))
    }

    /// Signs any claims.
    pub fn sign(&self, claims: &impl serde::Serialize) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.signing).expect("claims can be signed")
    }

    /// Tokens that must be refused, each with what is wrong with it.
    pub fn bad_tokens(&self, subject: Uuid, roles: &[&str]) -> Vec<(&'static str, String)> {
        let good = Self::claims(subject, roles);
        let without = |claim: &str| {
            let mut claims = json!(good);
            claims.as_object_mut().expect("claims are an object").remove(claim);
            self.sign(&claims)
        };
        let with = |claim: &str, value: Value| {
            let mut claims = json!(good);
            claims[claim] = value;
            self.sign(&claims)
        };
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let unsigned = format!("{}.{}.", encode(&json!({"alg": "none", "kid": self.kid})), encode(&json!(good)));
        let symmetric = {
            let header = Header { kid: Some(self.kid.clone()), ..Header::new(Algorithm::HS256) };
            jsonwebtoken::encode(&header, &good, &EncodingKey::from_secret(self.public.as_bytes())).expect("claims can be signed")
        };
        let own = self.token(subject, roles);
        let mut parts = own.split('.');
        let forged = {
            let head = parts.next().unwrap_or_default();
            let signature = parts.next_back().unwrap_or_default();
            format!("{head}.{}.{signature}", encode(&json!(Self::claims(subject, &["admin"]))))
        };
        vec![
            ("alg none", unsigned),
            ("signed with the public key as a secret", symmetric),
            ("other key, same kid", TestKeys { kid: self.kid.clone(), ..TestKeys::generate() }.token(subject, roles)),
            ("unknown key", TestKeys::generate().token(subject, roles)),
            ("changed claims", forged),
            ("expired", with("exp", json!(good.iat - 60))),
            ("signed in the future", with("iat", json!(good.iat + 3600))),
            ("exp as text", with("exp", json!(good.exp.to_string()))),
            ("other issuer", with("iss", json!("https://else.example"))),
            ("other audience", with("aud", json!("something-else"))),
            ("subject is no id", with("sub", json!("root"))),
            ("no exp", without("exp")),
            ("no iat", without("iat")),
            ("no iss", without("iss")),
            ("no aud", without("aud")),
            ("no sub", without("sub")),
            ("no token", "abc".into()),
            ("empty", String::new()),
        ]
    }
}

#[async_trait]
impl KeySource for &'static TestKeys {
    async fn json_web_keys(&self) -> Result<String, Fault> {
        Ok(json!({"keys": [self.json_web_key()]}).to_string())
    }
}
