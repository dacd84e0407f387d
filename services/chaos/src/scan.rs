//! Looks for what must be nowhere: secrets that were planted on purpose, tokens, card numbers. In logs, topics, every column of every
//! database, and metrics.

use crate::{
    door::{PASSWORD_CANARY, patiently},
    facts::Leak,
    load::{Shop, TOKEN_CANARY},
    load_facts::{TOPICS, raw_topic},
    world::{STORES, World},
};
use anyhow::{Context, Result};
use futures_util::TryStreamExt as _;
use regex::bytes::Regex;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use std::{collections::BTreeMap, sync::PoisonError};

/// A number of the card networks' tests that passes their check.
const CARD: &str = "4111111111111111";
/// The four networks' first digits, in groups or without, and any signed token.
const PATTERNS: &str =
    r"(?-u)\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}|\b(?:4\d{3}|5[1-5]\d\d|3[47]\d\d|6011|65\d\d)(?:[ -]?\d{4}){2}[ -]?\d{3,4}\b";

/// Something that is looked for.
#[derive(Debug, Clone)]
pub struct Canary {
    /// What it is, in words.
    pub what: &'static str,
    /// As it would be found.
    pub text: String,
    /// Where it may be: beginnings of the names of sinks.
    pub allowed: &'static [&'static str],
}

/// Finds canaries, card numbers and signed tokens.
#[derive(Debug)]
pub struct Scanner {
    canaries: Vec<Canary>,
    pattern: Regex,
    found: BTreeMap<(&'static str, String), usize>,
}

impl Scanner {
    /// Looks for these, and for card numbers and tokens.
    ///
    /// # Errors
    /// When they make no pattern.
    pub fn new(canaries: Vec<Canary>) -> Result<Self> {
        let literals: Vec<String> = canaries.iter().map(|canary| regex::escape(&canary.text)).collect();
        let pattern = std::iter::once(PATTERNS.to_owned()).chain(literals).collect::<Vec<_>>().join("|");
        Ok(Self { canaries, pattern: Regex::new(&pattern)?, found: BTreeMap::new() })
    }

    /// Searches what is in a sink.
    pub fn search(&mut self, sink: &str, bytes: &[u8]) {
        for hit in self.pattern.find_iter(bytes) {
            let what = match self.canaries.iter().find(|canary| canary.text.as_bytes() == hit.as_bytes()) {
                Some(canary) if canary.allowed.iter().any(|allowed| sink.starts_with(allowed)) => continue,
                Some(canary) => canary.what,
                None if hit.as_bytes().starts_with(b"eyJ") => "a signed token",
                None if card(bytes, hit.start(), hit.end()) => "a card number",
                None => continue,
            };
            *self.found.entry((what, sink.to_owned())).or_default() += 1;
        }
    }

    /// What was found, and where.
    pub fn done(self) -> Vec<Leak> {
        self.found.into_iter().map(|((what, place), times)| Leak { what: what.to_owned(), place, times }).collect()
    }
}

/// Whether the digits are a card number and not a part of something longer, such as a fraction or an id.
fn card(bytes: &[u8], start: usize, end: usize) -> bool {
    let part = |byte: Option<&u8>| byte.is_some_and(|byte| matches!(byte, b'.' | b'-' | b'_'));
    if part(start.checked_sub(1).and_then(|before| bytes.get(before))) || part(bytes.get(end)) {
        return false;
    }
    // ids of traces and spans are made of hexadecimal digits, and some of decimal ones alone
    if [&b"\"span_id\":\""[..], b"\"trace_id\":\""].iter().any(|name| bytes[..start].ends_with(name)) {
        return false;
    }
    let digits: Vec<u32> = bytes[start..end].iter().filter_map(|byte| char::from(*byte).to_digit(10)).collect();
    let doubled = |(place, digit): (usize, &u32)| match (place % 2, digit * 2) {
        (0, _) => *digit,
        (_, twice) if twice > 9 => twice - 9,
        (_, twice) => twice,
    };
    digits.iter().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
}

/// What is always looked for: the customers' passwords and means of payment, and the secrets of the shop itself.
pub fn standing(world: &World) -> Vec<Canary> {
    let nowhere = |what, text: String| Canary { what, text, allowed: &[] };
    let mut canaries = vec![
        nowhere("a customer's password", PASSWORD_CANARY.to_owned()),
        nowhere("the password of the staff", world.staff.1.clone()),
        // payment needs the token until the payment has its end, and hears of it from ordering
        Canary {
            what: "a means of payment",
            text: TOKEN_CANARY.to_owned(),
            allowed: &["topic orders", "database ordering: order_event.", "database ordering: outbox.", "database payment: payment."],
        },
    ];
    canaries.extend(world.secrets().into_iter().map(|secret| nowhere("a secret of the shop", secret)));
    canaries
}

/// Sends secrets to where clients send them, rightly and wrongly, and remembers them in the world.
///
/// # Errors
/// When the shop does not answer. What it takes that it should not is a leak, found by [`search`].
pub async fn plant(world: &World, shop: &Shop) -> Result<()> {
    let (client, base) = (reqwest::Client::new(), world.edge());
    let post = |path: &str, body: Value| client.post(format!("{base}{path}")).json(&body);
    let mut canaries = Vec::new();
    let mut plant = |what, text: String| canaries.push(Canary { what, text, allowed: &[] });
    let wrong = format!("{PASSWORD_CANARY}wrong");
    post("/auth/login", json!({ "email": world.staff.0, "password": wrong })).send().await?;
    let (_, tokens) = patiently(post("/auth/login", json!({ "email": world.staff.0, "password": world.staff.1 }))).await?;
    let tokens: Value = serde_json::from_str(&tokens)?;
    let refresh = tokens["refresh_token"].as_str().context("a refresh token")?.to_owned();
    // when its answer is lost, this token cannot be used a second time, and there is no next one
    let next: Value = post("/auth/refresh", json!({ "refresh_token": refresh })).send().await?.json().await.unwrap_or_default();
    plant("a refresh token", refresh);
    next["refresh_token"].as_str().into_iter().for_each(|next| plant("a refresh token", next.to_owned()));
    let forged = format!("canary-bearer-{:016x}", rand::random::<u64>());
    let orders = format!("{base}/api/orders");
    client.get(&orders).bearer_auth(&forged).send().await?;
    plant("a token that is none", forged);
    let (key, line) = ("canary-card", [(shop.cold[0], 1)]);
    let (refused, _) = patiently(shop.customers[0].order_request(key, &line, CARD)).await?;
    let card = (!refused.is_client_error()).then(|| Leak {
        what: "a card number".into(),
        place: format!("the order whose means of payment it was, answered {refused}"),
        times: 1,
    });
    world.canaries.lock().unwrap_or_else(PoisonError::into_inner).extend(canaries);
    world.leaks.lock().unwrap_or_else(PoisonError::into_inner).extend(card);
    Ok(())
}

/// Searches every sink.
///
/// # Errors
/// When a sink cannot be read.
pub async fn search(world: &World) -> Result<Vec<Leak>> {
    let mut canaries = standing(world);
    canaries.extend(world.canaries.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
    let mut scanner = Scanner::new(canaries)?;
    for entry in std::fs::read_dir(world.logs())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        scanner.search(&format!("log {name}"), &std::fs::read(&path).with_context(|| name.clone())?);
    }
    for (service, url) in world.metrics() {
        let text = reqwest::get(&url).await?.error_for_status()?.bytes().await.with_context(|| url.clone())?;
        scanner.search(&format!("metrics of {service}"), &text);
    }
    for role in STORES {
        database(world, role, &mut scanner).await.with_context(|| format!("the database of {role}"))?;
    }
    let brokers = world.brokers();
    let scanner = tokio::task::spawn_blocking(move || {
        for topic in TOPICS {
            raw_topic(&brokers, topic, |bytes| scanner.search(&format!("topic {topic}"), bytes))?;
        }
        Ok::<_, anyhow::Error>(scanner)
    });
    let mut leaks = scanner.await??.done();
    leaks.extend(world.leaks.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
    Ok(leaks)
}

const COLUMNS: &str = "select c.table_name::text, c.column_name::text, c.data_type::text
    from information_schema.columns c join information_schema.tables t using (table_schema, table_name)
    where c.table_schema not in ('pg_catalog', 'information_schema') and t.table_type = 'BASE TABLE'
      and (c.data_type in ('text', 'character varying', 'character', 'bytea', 'json', 'jsonb', 'name') or c.data_type = 'ARRAY')";

/// Every column that can hold text, of every table.
async fn database(world: &World, role: &str, scanner: &mut Scanner) -> Result<()> {
    let mut db = PgConnection::connect(&world.database_url(&format!("mercato_{role}"))?).await?;
    let columns: Vec<(String, String, String)> = sqlx::query_as(COLUMNS).fetch_all(&mut db).await?;
    for (table, column, kind) in columns {
        let value = if kind == "bytea" { format!("\"{column}\"") } else { format!("convert_to(\"{column}\"::text, 'UTF8')") };
        // the names come from the database's own catalogue
        let sql = AssertSqlSafe(format!("select {value} from \"{table}\" where \"{column}\" is not null"));
        let sink = format!("database {role}: {table}.{column}");
        let mut rows = sqlx::query(sql).fetch(&mut db);
        while let Some(row) = rows.try_next().await? {
            scanner.search(&sink, row.try_get::<&[u8], _>(0)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(sink: &str, text: &str) -> Vec<String> {
        let secret = Canary { what: "a password", text: "canary-pass-".into(), allowed: &["topic orders"] };
        let mut scanner = Scanner::new(vec![secret]).unwrap();
        scanner.search(sink, text.as_bytes());
        scanner.done().into_iter().map(|leak| leak.what).collect()
    }

    #[test]
    fn what_was_planted_is_found_where_it_must_not_be() {
        assert_eq!(found("log x", r#"{"password":"canary-pass-anna"}"#), ["a password"]);
        assert_eq!(found("log x", "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiIwMTkyIn0.c2ln"), ["a signed token"]);
        for card in ["4111111111111111", "4111 1111 1111 1111", "\u{12}\u{10}4111111111111111\u{1a}", "378282246310005"] {
            assert_eq!(found("topic payments", card), ["a card number"], "{card}");
        }
        assert!(found("topic orders", "canary-pass-anna").is_empty(), "it may be there");
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        let span = r#"{"span_id":"4111111111111111","level":"INFO"}"#;
        for text in
            ["4111111111111112", "0.4111111111111111", "00-4111111111111111-01", "1763712345678901", "a4111111111111111", "eyJ.eyJ", span]
        {
            assert_eq!(found("log x", text), Vec::<String>::new(), "{text}");
        }
    }
}
