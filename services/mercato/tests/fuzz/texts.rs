//! Texts and headers: tokens, peer credentials, page tokens, webhooks, event envelopes, deadlines.

use super::{
    engine::Target,
    mutate::{self, Rng},
};
use http::{HeaderMap, HeaderValue};
use mercato_chassis::{
    clock,
    grpc::timeout,
    inbox::Received,
    page_token::PageTokens,
    token::{PeerCredentials, TokenSettings, Verifier},
};
use mercato_payment::app::Webhook;
use mercato_provider::sign;
use mercato_testkit::TestKeys;
use rdkafka::message::{Header, OwnedHeaders, OwnedMessage, Timestamp};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::runtime::{Builder, Runtime};
use uuid::Uuid;

const SECRET: &str = "a-secret-of-the-fuzz-tests";
const ID: &str = "01890000-0000-7000-8000-000000000000";
const SHARE: usize = 12;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
}

/// All of them.
pub fn all() -> Vec<Target> {
    vec![tokens(), claims(), peers(), page_tokens(), webhooks(), forged_webhooks(), envelopes(), deadlines()]
}

fn target(name: &str, corpus: Vec<Vec<u8>>, run: impl Fn(&[u8]) + Send + Sync + 'static) -> Target {
    Target { name: name.into(), corpus, mutate: text, run: Box::new(run), share: SHARE }
}

/// Damage, or a text that has broken something somewhere.
fn text(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = rng.of(corpus).clone();
    if rng.once_in(3) {
        mutate::text(rng, &mut bytes)
    } else {
        mutate::damage(rng, &mut bytes)
    }
    bytes
}

fn verifier() -> Verifier {
    let settings = TokenSettings { issuer: "https://mercato.local".into(), audience: "mercato-api".into() };
    Verifier::new(&settings, Arc::new(TestKeys::shared()))
}

fn verify(verifier: &Verifier, token: &str) -> bool {
    RUNTIME.with(|runtime| runtime.block_on(verifier.verify(token)).is_ok())
}

/// Damaged tokens: none may pass but those that were signed as they are.
fn tokens() -> Target {
    let keys = TestKeys::shared();
    let good: Vec<String> = (0..8).map(|_| keys.token(Uuid::now_v7(), &["customer"])).collect();
    let bad = keys.bad_tokens(Uuid::now_v7(), &["admin"]).into_iter().map(|(_, token)| token);
    let corpus = good.iter().cloned().chain(bad).map(String::into_bytes).collect();
    let verifier = verifier();
    target("tokens", corpus, move |bytes| {
        let Ok(token) = std::str::from_utf8(bytes) else { return };
        let passed = verify(&verifier, token);
        assert!(!passed || good.iter().any(|good| good == token), "a forged token passed");
    })
}

/// Tokens with a good signature over strange claims.
fn claims() -> Target {
    let good = || json!(TestKeys::claims(Uuid::now_v7(), &["customer"]));
    let corpus = (0..4).map(|_| good().to_string().into_bytes()).collect();
    let verifier = verifier();
    target("claims", corpus, move |bytes| {
        let Ok(claims) = serde_json::from_slice::<Value>(bytes) else { return };
        let passed = verify(&verifier, &TestKeys::shared().sign(&claims));
        let whole = |name: &str| claims[name].as_f64().is_some_and(|number| number.fract() == 0.0);
        let sound = claims["iss"] == "https://mercato.local"
            && (claims["aud"] == "mercato-api")
            && claims["sub"].as_str().is_some_and(|text| Uuid::parse_str(text).is_ok())
            && whole("iat")
            && whole("exp");
        assert!(!passed || sound, "strange claims passed: {claims}");
    })
}

fn peers() -> Target {
    let credentials = PeerCredentials::new(SecretString::from(SECRET));
    let good: Vec<String> =
        ["ordering", "customer"].iter().map(|role| credentials.header(role).to_str().expect("ascii").to_owned()).collect();
    let corpus = good.iter().cloned().map(String::into_bytes).collect();
    target("peer credentials", corpus, move |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let passed = credentials.verify(text).is_ok();
        assert!(!passed || good.iter().any(|good| good == text), "a forged credential passed");
    })
}

fn page_tokens() -> Target {
    let tokens = PageTokens::new(SECRET.as_bytes());
    let bind = ["ListOrders", ID, "1"];
    let good: Vec<String> = (0..6_u8).map(|n| tokens.encode(&bind, &vec![n; usize::from(n) * 7])).collect();
    let corpus = good.iter().cloned().map(String::into_bytes).collect();
    target("page tokens", corpus, move |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let passed = tokens.decode(&bind, text).is_ok();
        assert!(!passed || good.iter().any(|good| good == text), "a forged page token passed");
        assert!(tokens.decode(&["ListOrders", "somebody else", "1"], text).is_err(), "a page token of another list passed");
    })
}

fn body() -> Vec<u8> {
    format!(r#"{{"eventId":"e-1","type":"payment.captured","reference":"{ID}","amountMinor":2999,"more":[{{}}]}}"#).into_bytes()
}

/// Bodies that are signed and strange all the same.
fn webhooks() -> Target {
    let secrets = [SecretString::from(SECRET)];
    target("webhook bodies", vec![body(), b"[]".to_vec(), b"{\"eventId\":1}".to_vec()], move |bytes| {
        let now = clock::unix_seconds();
        if let Ok(read) = Webhook::open(&secrets, Some(&sign(SECRET, now, bytes)), bytes, now) {
            assert!(read.event_id.len() <= 128 && read.kind.len() <= 64 && read.reference.len() <= 255);
        }
    })
}

/// Signatures that were made for something else, or by nobody.
fn forged_webhooks() -> Target {
    let secrets = [SecretString::from(SECRET), SecretString::from("the-secret-before-that")];
    let (now, body) = (1_700_000_000, body());
    let good = sign(SECRET, now, &body);
    let corpus = vec![good.clone().into_bytes(), format!("{good},v1={}", "0".repeat(64)).into_bytes(), b"t=1,v1=00".to_vec()];
    let mac = good.rsplit_once('=').expect("t=..,v1=..").1.to_owned();
    target("webhook signatures", corpus, move |bytes| {
        let Ok(header) = std::str::from_utf8(bytes) else { return };
        let passed = Webhook::open(&secrets, Some(header), &body, now).is_ok();
        assert!(!passed || header.to_lowercase().contains(&mac), "a forged signature passed");
        assert!(Webhook::open(&secrets, Some(header), &body[1..], now).is_err(), "a signature passed for another body");
    })
}

/// Headers of a Kafka record, one a line.
fn envelopes() -> Target {
    let good = format!(
        "ce_id={ID}\nce_type=order.created\nce_subject={ID}\nce_sequence=1\nce_time=2026-01-31T12:00:00.123Z\n\
         traceparent=00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    );
    let strange = good.replace("ce_sequence=1", "ce_sequence=9223372036854775807").replace("2026", "+9999");
    target("event envelopes", vec![good.into_bytes(), strange.into_bytes()], |bytes| {
        let mut headers = OwnedHeaders::new();
        for line in bytes.split(|byte| *byte == b'\n') {
            let (name, value) = match line.iter().position(|byte| *byte == b'=') {
                Some(place) => (&line[..place], Some(&line[place + 1..])),
                None => (line, None),
            };
            // a name with a zero byte cannot be sent
            if let Ok(key) = std::str::from_utf8(name)
                && !key.contains('\0')
            {
                headers = headers.insert(Header { key, value });
            }
        }
        let record = OwnedMessage::new(None, None, "orders".into(), Timestamp::NotAvailable, 0, 0, Some(headers));
        if let Ok(read) = Received::parse(&record) {
            assert!(read.sequence >= 1 && !read.kind.contains('\0'));
        }
    })
}

fn deadlines() -> Target {
    let corpus = ["1S", "100m", "99999999H", "0n", "123456789S", "-1S", "1", ""].map(|text| text.as_bytes().to_vec()).to_vec();
    target("deadlines", corpus, |bytes| {
        let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), value)]);
        if let Some(time) = timeout::parse(&headers) {
            assert!(time <= Duration::from_secs(99_999_999 * 3600));
        }
    })
}
