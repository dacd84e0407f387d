//! Envoy's question "may this caller go on": token buckets per subject and per address, shared through Redis. Without Redis each
//! instance counts for itself, so a limit is then as many times higher as there are instances; it never opens and never shuts.

mod bucket;

use crate::metrics;
use bucket::{Local, Taken};
use mercato_chassis::config::Source;
use mercato_chassis::redis::Redis;
use mercato_contracts::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use mercato_contracts::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit};
use mercato_contracts::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse, rate_limit_service_server::RateLimitService};
use prost_types::Duration as ProtoDuration;
use std::time::{Duration, Instant};
use tonic::{Request, Response, Status};

/// How fast a bucket fills and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Tokens a second.
    pub per_second: u32,
    /// Tokens at most, and at the start.
    pub burst: u32,
}

/// A rule for each class of requests the edge names.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Changes by a signed-in subject.
    pub write: Rule,
    /// Signing in and out, per address.
    pub auth: Rule,
    /// Other changes without a token, such as registering, per address.
    pub anonymous: Rule,
}

impl Rules {
    /// Reads the rules from the settings.
    pub fn read(source: &mut Source) -> Self {
        Self {
            write: rule(source, "WRITE", 50, 200, "changes by one subject"),
            auth: rule(source, "AUTH", 20, 100, "sign-ins from one address"),
            anonymous: rule(source, "ANONYMOUS", 50, 500, "registrations from one address"),
        }
    }

    fn of(&self, class: &str) -> Option<Rule> {
        match class {
            "write" => Some(self.write),
            "auth" => Some(self.auth),
            "anonymous" => Some(self.anonymous),
            _ => None,
        }
    }
}

fn rule(source: &mut Source, class: &str, per_second: u32, burst: u32, what: &str) -> Rule {
    let rate = format!("MERCATO_RATE_{class}_PER_SECOND");
    let most = format!("MERCATO_RATE_{class}_BURST");
    Rule {
        per_second: source.number(&rate, per_second, 1..=1_000_000, &format!("{what} allowed a second")),
        burst: source.number(&most, burst, 1..=1_000_000, &format!("{what} allowed at once")),
    }
}

/// The rate limit service.
pub struct Limiter {
    rules: Rules,
    redis: Option<Redis>,
    local: Local,
}

impl Limiter {
    /// A limiter with full buckets.
    pub fn new(rules: Rules, redis: Option<Redis>) -> Self {
        Self { rules, redis, local: Local::default() }
    }

    async fn take(&self, descriptor: &RateLimitDescriptor, hits: u32) -> DescriptorStatus {
        let class = descriptor.entries.iter().find(|e| e.key == "class").map_or("", |e| e.value.as_str());
        let Some(rule) = self.rules.of(class) else {
            return DescriptorStatus { code: Code::Ok.into(), ..DescriptorStatus::default() };
        };
        let key = key(descriptor);
        let taken = match &self.redis {
            Some(redis) => match bucket::shared(redis, &key, rule, hits).await {
                Ok(taken) => taken,
                Err(fault) => {
                    tracing::debug!(error = %fault, "redis does not count, counting here");
                    self.local.take(&key, rule, hits, Instant::now())
                }
            },
            None => self.local.take(&key, rule, hits, Instant::now()),
        };
        metrics::LIMITS.one([class, if taken.granted { "ok" } else { "over" }]);
        status(rule, &taken)
    }
}

/// `rl:write:subject=…`: every entry of the descriptor counts.
fn key(descriptor: &RateLimitDescriptor) -> String {
    let parts: Vec<String> = descriptor.entries.iter().map(|e| format!("{}={}", e.key, e.value)).collect();
    format!("rl:{}", parts.join(":"))
}

fn status(rule: Rule, taken: &Taken) -> DescriptorStatus {
    DescriptorStatus {
        code: if taken.granted { Code::Ok } else { Code::OverLimit }.into(),
        current_limit: Some(RateLimit { requests_per_unit: rule.per_second, unit: Unit::Second.into(), name: String::new() }),
        limit_remaining: taken.left,
        duration_until_reset: Some(proto(taken.wait)),
    }
}

/// Whole seconds, at least one: Envoy tells clients seconds.
fn proto(wait: Duration) -> ProtoDuration {
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    ProtoDuration { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 }
}

#[tonic::async_trait]
impl RateLimitService for Limiter {
    async fn should_rate_limit(&self, request: Request<RateLimitRequest>) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        let hits = request.hits_addend.max(1);
        let mut statuses = Vec::with_capacity(request.descriptors.len());
        for descriptor in &request.descriptors {
            statuses.push(self.take(descriptor, hits).await);
        }
        let over = statuses.iter().any(|s| s.code() == Code::OverLimit);
        Ok(Response::new(RateLimitResponse {
            overall_code: if over { Code::OverLimit } else { Code::Ok }.into(),
            statuses,
            ..RateLimitResponse::default()
        }))
    }
}
