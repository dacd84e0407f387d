//! Settings.

use crate::domain::{Policy, TimeScale};
use mercato_chassis::config::{Source, strong};
use secrecy::SecretString;
use std::time::Duration;

/// Everything an operator can set for this service.
#[derive(Debug, Clone)]
pub struct Config {
    /// Base URL of the development provider.
    pub provider_url: String,
    /// Time for one authorisation, capture, void or refund.
    pub call_timeout: Duration,
    /// Time for one look-up.
    pub look_up_timeout: Duration,
    /// Times and limits of payments.
    pub policy: Policy,
    /// Secrets that webhooks may be signed with; none refuses them all.
    pub webhook_secrets: Vec<SecretString>,
    /// How often our ledger is compared with the provider's.
    pub reconcile_every: Duration,
}

const MINUTE: u64 = 60_000;

impl Config {
    /// Reads the settings; mistakes are collected in `source`.
    pub fn read(source: &mut Source) -> Self {
        let url = source.string("MERCATO_PROVIDER_URL", "http://127.0.0.1:8090", "base url of the payment provider");
        if !url.starts_with("http://") {
            source.refuse("MERCATO_PROVIDER_URL", "must begin with http://; the development provider speaks nothing else");
        }
        let call = "time for one call of the payment provider, in ms";
        let look_up = "time for one look-up at the payment provider, in ms";
        let deadline = "from an order's placing until no authorisation is tried any more, in ms; less than stock is held";
        let settle = "how long after a call the provider's `not found` is not believed, in ms";
        let scale = "every wait before a retry or look-up in percent of its real length; for tests";
        let policy = Policy {
            deadline: source.duration_ms("MERCATO_PAYMENT_DEADLINE_MS", 14 * MINUTE, 100..=24 * 60 * MINUTE, deadline),
            settle: source.duration_ms("MERCATO_PAYMENT_SETTLE_MS", MINUTE, 0..=60 * MINUTE, settle),
            tries: source.number("MERCATO_PAYMENT_TRIES", 20, 1..=100, "failed captures, voids or refunds until a person is asked"),
            scale: TimeScale(source.number("MERCATO_PAYMENT_LOOKUP_SCALE_PERCENT", 100, 1..=1000, scale)),
        };
        Self {
            provider_url: url.trim_end_matches('/').to_owned(),
            call_timeout: source.duration_ms("MERCATO_PROVIDER_TIMEOUT_MS", 10_000, 50..=10_000, call),
            look_up_timeout: source.duration_ms("MERCATO_PROVIDER_LOOKUP_TIMEOUT_MS", 5_000, 50..=10_000, look_up),
            policy,
            webhook_secrets: webhook_secrets(source),
            reconcile_every: source.duration_ms(
                "MERCATO_PAYMENT_RECONCILE_MS",
                10 * MINUTE,
                1000..=24 * 60 * MINUTE,
                "how often the ledgers are compared, in ms",
            ),
        }
    }
}

/// The present secret and, while it is being changed, the one before.
fn webhook_secrets(source: &mut Source) -> Vec<SecretString> {
    let names = [
        ("MERCATO_PROVIDER_WEBHOOK_SECRET", "what webhooks are signed with; without it all are refused"),
        ("MERCATO_PROVIDER_WEBHOOK_SECRET_PREVIOUS", "the webhook secret before a change, still accepted"),
    ];
    let mut secrets = Vec::new();
    for (name, doc) in names {
        match source.optional_secret(name, doc) {
            Some(secret) if !strong(&secret) => source.refuse(name, "must have at least 16 characters"),
            Some(secret) => secrets.push(secret),
            None => {}
        }
    }
    secrets
}
