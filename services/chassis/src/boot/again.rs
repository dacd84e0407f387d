//! What is said again when the broker has lost what consumers had not taken yet.
//!
//! A service deletes an event from its outbox when the broker has it, so an event that the broker loses is in no database as such. What
//! happened is: a consumer that counts waits for the next number and would wait for ever. So its sender says again every number from there
//! on, through its outbox. A number that was heard already is nothing new to anybody, so too much may be said, never too little.

use super::{
    StartError,
    archive::{Disagreement, PAGE, Said},
};
use crate::{
    error::Fault,
    outbox::{self, Event},
    role::{Again, Platform, Retold},
};
use sqlx::{PgConnection, PgPool, Row as _};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use uuid::Uuid;

/// Aggregates whose events are said again in one transaction.
const TOGETHER: usize = 200;
/// The time that transaction may take.
const BUDGET: Duration = Duration::from_secs(10);

/// Puts into the outboxes what consumers that count have not taken and what is on its way in no outbox; of topics that nobody counts the
/// latest event of each aggregate. Returns how many events by topic. May be repeated, and roles may run: what is on its way is then said twice,
/// which changes nothing.
///
/// # Errors
/// [`StartError`]; what was put into outboxes by then stays there.
pub async fn repeat_events(platform: &Platform) -> Result<BTreeMap<String, u64>, StartError> {
    let said = Said::open(platform).await?;
    let mut repeated = BTreeMap::new();
    for (role, again) in retelling(platform)? {
        let listeners = listeners(platform, again.topic);
        let mut after = Uuid::nil();
        loop {
            let page = aggregates(said.databases[role].read(), again, after).await?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            let missing = missing(&said, again.topic, &listeners, &page).await?;
            for part in missing.chunks(TOGETHER) {
                *repeated.entry(again.topic.to_owned()).or_default() += put(&said, role, again, part).await?;
            }
        }
    }
    Ok(repeated)
}

/// What can be said again, and by whom.
fn retelling(platform: &Platform) -> Result<Vec<(&'static str, &'static Again)>, StartError> {
    let all: Vec<_> = platform.roles.iter().flat_map(|role| role.again().iter().map(|again| (role.name(), again))).collect();
    let counted = platform.roles.iter().flat_map(|role| role.counts());
    match counted.map(|(_, topic)| *topic).find(|topic| !all.iter().any(|(_, again)| again.topic == *topic)) {
        Some(topic) => Err(StartError::Failed(format!("nobody can say the events of topic {topic} again"))),
        None => Ok(all),
    }
}

/// The consumers that count the events of a topic, each with its role.
fn listeners(platform: &Platform, topic: &str) -> Vec<(&'static str, &'static str)> {
    let of = |role: &'static str, counts: &'static [(&'static str, &'static str)]| {
        counts.iter().filter(|(_, heard)| *heard == topic).map(move |(consumer, _)| (role, *consumer))
    };
    platform.roles.iter().flat_map(|role| of(role.name(), role.counts())).collect()
}

/// A page of aggregates with the numbers of their latest events.
async fn aggregates(pool: &PgPool, again: &Again, after: Uuid) -> Result<Vec<(Uuid, i64)>, Fault> {
    Ok(sqlx::query_as(again.aggregates).bind(after).bind(PAGE).fetch_all(pool).await?)
}

/// What one consumer has taken of these aggregates.
async fn taken(pool: &PgPool, consumer: &str, topic: &str, page: &[(Uuid, i64)]) -> Result<HashMap<Uuid, i64>, Fault> {
    let select = "select aggregate, last_seq from inbox_sequence where consumer = $1 and topic = $2 and aggregate = any($3)";
    let ids: Vec<Uuid> = page.iter().map(|(aggregate, _)| *aggregate).collect();
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(select).bind(consumer).bind(topic).bind(ids).fetch_all(pool).await?;
    Ok(rows.into_iter().collect())
}

/// The aggregates of a page whose events have to be said again, and the number after which.
async fn missing(
    said: &Said,
    topic: &str,
    listeners: &[(&'static str, &'static str)],
    page: &[(Uuid, i64)],
) -> Result<Vec<(Uuid, i64)>, Fault> {
    if listeners.is_empty() {
        return Ok(page.iter().map(|(aggregate, number)| (*aggregate, number - 1)).collect());
    }
    let mut least: BTreeMap<Uuid, i64> = BTreeMap::new();
    for (role, consumer) in listeners {
        let taken = taken(said.databases[role].read(), consumer, topic, page).await?;
        for (aggregate, number) in page {
            let heard = taken.get(aggregate).copied().unwrap_or(0);
            if heard < *number {
                let known = least.entry(*aggregate).or_insert(heard);
                *known = heard.min(*known);
            }
        }
    }
    Ok(least.into_iter().collect())
}

/// Says them again through the sender's outbox, except what lies there already. Returns how many.
async fn put(said: &Said, role: &'static str, again: &'static Again, missing: &[(Uuid, i64)]) -> Result<u64, Fault> {
    let missing: Arc<[(Uuid, i64)]> = missing.into();
    said.databases[role]
        .uow_within(BUDGET, move |tx| {
            let missing = missing.clone();
            Box::pin(async move {
                let waiting = waiting(&mut *tx, again.topic, &missing).await?;
                let mut events = match &again.events {
                    Retold::Kept(query) => kept(&mut *tx, again.topic, query, &missing).await?,
                    Retold::Now(make) => make(&mut *tx, &missing).await?,
                };
                events.retain(|event| !waiting.contains(&event.place()));
                outbox::append(tx, &events).await?;
                Ok(events.len() as u64)
            })
        })
        .await
}

async fn waiting(tx: &mut PgConnection, topic: &str, missing: &[(Uuid, i64)]) -> Result<HashSet<(Uuid, i64)>, Fault> {
    let ids: Vec<Uuid> = missing.iter().map(|(aggregate, _)| *aggregate).collect();
    let select = "select aggregate, sequence from outbox where topic = $1 and aggregate = any($2)";
    Ok(sqlx::query_as::<_, (Uuid, i64)>(select).bind(topic).bind(ids).fetch_all(tx).await?.into_iter().collect())
}

async fn kept(tx: &mut PgConnection, topic: &str, query: &'static str, missing: &[(Uuid, i64)]) -> Result<Vec<Event>, Fault> {
    let (ids, after): (Vec<Uuid>, Vec<i64>) = missing.iter().copied().unzip();
    let rows = sqlx::query(query).bind(ids).bind(after).fetch_all(tx).await?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<Event, sqlx::Error> {
        Ok(Event::again(topic, row.try_get(2)?, row.try_get(0)?, row.try_get(1)?, row.try_get(3)?))
    };
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

/// Aggregates that a consumer which counts never heard of, for they are in none of its rows.
pub(super) async fn never_heard(platform: &Platform, said: &Said, behind: &mut Vec<Disagreement>) -> Result<(), StartError> {
    for (role, again) in retelling(platform)? {
        let listeners = listeners(platform, again.topic);
        let mut after = Uuid::nil();
        while !listeners.is_empty() {
            let page = aggregates(said.databases[role].read(), again, after).await?;
            let Some((last, _)) = page.last() else { break };
            after = *last;
            for (role, consumer) in &listeners {
                let taken = taken(said.databases[role].read(), consumer, again.topic, &page).await?;
                let unheard = page.iter().filter(|(aggregate, _)| !taken.contains_key(aggregate));
                behind.extend(unheard.map(|(aggregate, number)| Disagreement {
                    consumer: (*consumer).to_owned(),
                    topic: again.topic.to_owned(),
                    aggregate: *aggregate,
                    taken: 0,
                    said: *number,
                }));
            }
        }
    }
    Ok(())
}
