//! The token bucket, in Redis for all instances and in memory for one.

use super::Rule;
use mercato_chassis::error::Fault;
use mercato_chassis::redis::Redis;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a request for tokens got.
#[derive(Debug, PartialEq)]
pub struct Taken {
    /// Whether it got them.
    pub granted: bool,
    /// Tokens left.
    pub left: u32,
    /// Until the bucket is full again, or, when refused, until there is one token.
    pub wait: Duration,
}

/// On Redis' own clock, in one step, so that instances cannot race or disagree on the time. Milli-tokens keep it in integers.
const SCRIPT: &str = "local t=redis.call('TIME') local now=t[1]*1000+math.floor(t[2]/1000) \
local rate,burst,hits=tonumber(ARGV[1]),tonumber(ARGV[2])*1000,tonumber(ARGV[3])*1000 \
local b=redis.call('HMGET',KEYS[1],'m','t') local m=tonumber(b[1]) or burst local at=tonumber(b[2]) or now \
m=math.min(burst,m+math.max(0,now-at)*rate) local ok=0 if m>=hits then m=m-hits ok=1 end \
redis.call('HSET',KEYS[1],'m',m,'t',now) redis.call('PEXPIRE',KEYS[1],math.ceil(burst/rate)+1000) return {ok,math.floor(m)}";

/// Takes tokens from the shared bucket. Errors: [`Fault::Unavailable`] when Redis does not answer in its budget.
pub async fn shared(redis: &Redis, key: &str, rule: Rule, hits: u32) -> Result<Taken, Fault> {
    let mut command = redis::cmd("EVAL");
    command.arg(SCRIPT).arg(1).arg(key).arg(rule.per_second).arg(rule.burst).arg(hits);
    let (granted, milli): (u8, i64) = redis.query(&command).await?;
    Ok(taken(rule, granted == 1, u64::try_from(milli).unwrap_or(0)))
}

fn taken(rule: Rule, granted: bool, milli: u64) -> Taken {
    let missing = if granted { (u64::from(rule.burst) * 1000).saturating_sub(milli) } else { 1000_u64.saturating_sub(milli) };
    let wait = Duration::from_millis(missing.div_ceil(u64::from(rule.per_second)));
    Taken { granted, left: u32::try_from(milli / 1000).unwrap_or(u32::MAX), wait }
}

/// Buckets of this instance.
#[derive(Default)]
pub struct Local {
    buckets: Mutex<HashMap<String, Level>>,
}

struct Level {
    milli: u64,
    at: Instant,
}

/// More callers than this, and the buckets that have been left alone for long enough to be full again are forgotten.
const MANY: usize = 50_000;

impl Local {
    /// Takes tokens from the bucket of this instance.
    pub fn take(&self, key: &str, rule: Rule, hits: u32, now: Instant) -> Taken {
        let full = u64::from(rule.burst) * 1000;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MANY {
            buckets.retain(|_, level| now.duration_since(level.at) < Duration::from_secs(60));
        }
        let level = buckets.entry(key.to_owned()).or_insert(Level { milli: full, at: now });
        let since = u64::try_from(now.duration_since(level.at).as_millis()).unwrap_or(u64::MAX);
        level.milli = full.min(level.milli.saturating_add(since.saturating_mul(u64::from(rule.per_second))));
        level.at = now;
        let wanted = u64::from(hits) * 1000;
        let granted = level.milli >= wanted;
        if granted {
            level.milli -= wanted;
        }
        taken(rule, granted, level.milli)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { per_second: 10, burst: 3 };

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let (local, start) = (Local::default(), Instant::now());
        let grants: Vec<bool> = (0..4).map(|_| local.take("a", RULE, 1, start).granted).collect();
        assert_eq!(grants, [true, true, true, false]);
        let refused = local.take("a", RULE, 1, start);
        assert_eq!(refused.wait, Duration::from_millis(100));
        assert!(local.take("a", RULE, 1, start + Duration::from_millis(100)).granted);
        assert!(!local.take("a", RULE, 1, start + Duration::from_millis(100)).granted);
    }

    #[test]
    fn callers_do_not_share_a_bucket() {
        let (local, now) = (Local::default(), Instant::now());
        assert!(local.take("a", RULE, 3, now).granted);
        assert!(local.take("b", RULE, 3, now).granted);
    }

    #[test]
    fn a_bucket_never_holds_more_than_its_burst() {
        let (local, start) = (Local::default(), Instant::now());
        local.take("a", RULE, 1, start);
        assert!(!local.take("a", RULE, 4, start + Duration::from_secs(3600)).granted);
    }
}
