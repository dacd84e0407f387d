//! The rate limit service against a real Redis, and without one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use mercato_chassis::metrics::{Form, render};
use mercato_chassis::redis::Redis;
use mercato_contracts::envoy::extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry};
use mercato_contracts::envoy::service::ratelimit::v3::rate_limit_response::Code;
use mercato_contracts::envoy::service::ratelimit::v3::{RateLimitRequest, rate_limit_service_server::RateLimitService};
use mercato_gateway::limits::{Limiter, Rule, Rules};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tonic::Request;

/// Ten at once, and one more for each second that a test takes.
const RULE: Rule = Rule { per_second: 1, burst: 10 };
const RULES: Rules = Rules { write: RULE, auth: RULE, anonymous: RULE };

/// How long to wait for what must come: longer than it takes on any machine.
const LONG: Duration = Duration::from_secs(120);

fn redis() -> Redis {
    let url = std::env::var("REDIS_URL").expect("REDIS_URL names a real redis: run `make test`");
    Redis::new(&url, None).unwrap()
}

/// A subject no other run has.
fn subject(name: &str) -> String {
    format!("{name}-{}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos())
}

fn ask(class: &str, subject: &str) -> Request<RateLimitRequest> {
    let entry = |key: &str, value: &str| Entry { key: key.into(), value: value.into() };
    let descriptor = RateLimitDescriptor { entries: vec![entry("class", class), entry("subject", subject)], ..Default::default() };
    Request::new(RateLimitRequest { domain: "mercato".into(), descriptors: vec![descriptor], hits_addend: 1 })
}

async fn granted(limiter: &Limiter, class: &str, subject: &str) -> bool {
    let answer = limiter.should_rate_limit(ask(class, subject)).await.unwrap().into_inner();
    answer.overall_code() == Code::Ok
}

/// Questions that Redis did not answer in time so far.
fn unanswered() -> f64 {
    let all = render(Form::Classic);
    let lines = ["error", "refused"].map(|outcome| format!("mercato_redis_calls_total{{outcome=\"{outcome}\"}} "));
    let values = all.lines().filter_map(|line| lines.iter().find_map(|start| line.strip_prefix(start.as_str())));
    values.map(|value| value.parse::<f64>().unwrap()).sum()
}

/// How many of forty at once were granted, and how long it took.
async fn race(limiters: &[Arc<Limiter>; 2], subject: &str) -> (usize, Duration) {
    let began = Instant::now();
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let (limiter, subject) = (limiters[n % 2].clone(), subject.to_owned());
            tokio::spawn(async move { granted(&limiter, "write", &subject).await })
        })
        .collect();
    let mut count = 0;
    for task in tasks {
        count += usize::from(task.await.unwrap());
    }
    (count, began.elapsed())
}

/// Whether as many were granted as a bucket held and gained in that time.
fn fits((count, time): (usize, Duration)) -> bool {
    (10..=10 + time.as_secs() as usize).contains(&count)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_one_bucket_through_redis() {
    let limiter = || Arc::new(Limiter::new(RULES, Some(redis())));
    let end = Instant::now() + LONG;
    loop {
        let limiters = [limiter(), limiter()];
        // The first call connects; its own time may be over by then, so it asks about somebody else.
        for limiter in &limiters {
            granted(limiter, "write", "warm").await;
        }
        let before = unanswered();
        let raced = race(&limiters, &subject("shared")).await;
        if fits(raced) {
            return;
        }
        // An instance that got no answer of Redis in time rightly counts for itself. That excuses a race, but not every one.
        assert!(unanswered() > before && Instant::now() < end, "{} of 40 were granted in {:?}", raced.0, raced.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_an_instance_counts_for_itself() {
    let limiter = Arc::new(Limiter::new(RULES, None));
    let raced = race(&[limiter.clone(), limiter], &subject("local")).await;
    assert!(fits(raced), "{raced:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_redis_neither_opens_nor_shuts_the_door() {
    let limiter = Arc::new(Limiter::new(RULES, Some(Redis::new("redis://127.0.0.1:1", None).unwrap())));
    let raced = race(&[limiter.clone(), limiter], &subject("dead")).await;
    assert!(fits(raced), "{raced:?}");
}

#[tokio::test]
async fn a_refusal_says_when_to_come_back() {
    let limiter = Limiter::new(RULES, None);
    for _ in 0..10 {
        assert!(granted(&limiter, "auth", "a").await);
    }
    let answer = loop {
        let answer = limiter.should_rate_limit(ask("auth", "a")).await.unwrap().into_inner();
        // On a slow machine a second may have passed, and a token come.
        if answer.overall_code() == Code::OverLimit {
            break answer;
        }
    };
    assert_eq!(answer.statuses[0].duration_until_reset.as_ref().unwrap().seconds, 1);
}

#[tokio::test]
async fn a_class_without_a_rule_is_not_limited() {
    let limiter = Limiter::new(RULES, None);
    for _ in 0..100 {
        assert!(granted(&limiter, "read", "a").await);
    }
}
