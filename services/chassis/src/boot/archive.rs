//! The log of events in backups: copying it, saying it again after the databases were restored, and comparing both.

use super::{StartError, again, settings::Stores};
use crate::{
    config::{self, Source},
    error::Fault,
    kafka::{
        KafkaSettings,
        archive::{self, Line, Origin, Place},
    },
    pg::Db,
    role::{Platform, Role},
    tasks::Tasks,
};
use sqlx::{PgPool, Row as _};
use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, Seek, Write},
};
use uuid::Uuid;

/// Rows compared at once.
pub(super) const PAGE: i64 = 1000;

/// What became of a topic's events when they were said again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Told {
    /// Put back: their sender knows that it said them.
    pub again: u64,
    /// Left out: said after the moment of the databases, so they never happened.
    pub lost: u64,
}

/// Where a consumer and the one it listens to disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// The consumer.
    pub consumer: String,
    /// Without prefix.
    pub topic: String,
    /// What it happened to.
    pub aggregate: Uuid,
    /// The last event the consumer has taken; 0 when it never heard of the aggregate.
    pub taken: i64,
    /// The last one its sender knows of; 0 when it does not know the aggregate.
    pub said: i64,
}

/// Copies the events of all topics; see [`archive::save`].
///
/// # Errors
/// [`StartError`].
pub async fn save_events(platform: &Platform, since: Option<&Place>, out: &mut (dyn Write + Send)) -> Result<u64, StartError> {
    let said = Said::open(platform).await?;
    let origin = said.origin().await?;
    Ok(tokio::task::block_in_place(|| archive::save(&said.kafka, platform.topics, &origin, since, out))?)
}

/// How far the slowest consumers are; see [`archive::place`].
///
/// # Errors
/// [`StartError`].
pub fn place_in_events(platform: &Platform) -> Result<Place, StartError> {
    Ok(archive::place(&settings(platform)?.0.kafka, platform.topics)?)
}

/// Empties the topics for events that are said again; see [`archive::empty`].
///
/// # Errors
/// [`StartError`].
pub async fn empty_topics(platform: &Platform) -> Result<(), StartError> {
    Ok(archive::empty(&settings(platform)?.0.kafka, platform.topics).await?)
}

/// Says the events of a copy again, into empty topics, as far as the databases know of them. The others are written to `lost`, one line of
/// JSON each. No role may run.
///
/// # Errors
/// [`StartError`]: for a copy that is damaged or of another shop, before anything is said; otherwise the topics have to be emptied before
/// another try.
pub async fn restore_events<F: BufRead + Seek>(
    platform: &Platform,
    from: &mut F,
    lost: &mut dyn Write,
) -> Result<BTreeMap<String, Told>, StartError> {
    let said = Said::open(platform).await?;
    let origin = archive::verify(from, platform.topics)?;
    if let Some(role) = origin.differs(&said.origin().await?) {
        return Err(StartError::Failed(format!("the copy is of another shop: the database of {role} is not the one it was made beside")));
    }
    from.rewind().map_err(|error| StartError::Failed(format!("the copy cannot be read again: {error}")))?;
    let sender = archive::Sender::new(&said.kafka, platform.topics)?;
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    loop {
        let lines = archive::read(from)?;
        if lines.is_empty() {
            break;
        }
        let known = said.numbers_of(lines.iter().map(|line| (line.topic.as_str(), line.aggregate))).await?;
        let (again, gone): (Vec<Line>, Vec<Line>) =
            lines.into_iter().partition(|line| known.get(&(line.topic.clone(), line.aggregate)).is_some_and(|said| line.sequence <= *said));
        again.iter().for_each(|line| told.entry(line.topic.clone()).or_default().again += 1);
        gone.iter().for_each(|line| told.entry(line.topic.clone()).or_default().lost += 1);
        sender.send(&again).await?;
        for line in &gone {
            note(line, lost).map_err(|error| StartError::Failed(format!("the list of lost events cannot be written: {error}")))?;
        }
    }
    Ok(told)
}

/// A lost event for people and programs; without its payload, in which there may be somebody's address.
fn note(line: &Line, out: &mut dyn Write) -> std::io::Result<()> {
    let kind = line.headers.iter().find(|(name, _)| name == "ce_type").map_or("", |(_, value)| value.as_str());
    let at = line.headers.iter().find(|(name, _)| name == "ce_time").map_or("", |(_, value)| value.as_str());
    let fields =
        serde_json::json!({ "topic": line.topic, "kind": kind, "aggregate": line.aggregate, "sequence": line.sequence, "time": at });
    writeln!(out, "{fields}")
}

/// Compares what consumers have taken with what was said. `ahead`: taken and never said, which no healthy installation has. `behind`: said
/// and not taken; while events are on their way that is as it should be, at rest it is not.
///
/// # Errors
/// [`StartError`].
pub async fn compare_events(platform: &Platform) -> Result<(Vec<Disagreement>, Vec<Disagreement>), StartError> {
    let said = Said::open(platform).await?;
    let (mut ahead, mut behind) = (Vec::new(), Vec::new());
    for db in said.databases.values() {
        let mut after = (String::new(), String::new(), Uuid::nil());
        loop {
            let taken = taken(db.read(), &after).await?;
            let Some(last) = taken.last() else { break };
            after = (last.consumer.clone(), last.topic.clone(), last.aggregate);
            let known = said.numbers_of(taken.iter().map(|one| (one.topic.as_str(), one.aggregate))).await?;
            for mut one in taken {
                one.said = known.get(&(one.topic.clone(), one.aggregate)).copied().unwrap_or(0);
                match one.taken.cmp(&one.said) {
                    std::cmp::Ordering::Greater => ahead.push(one),
                    std::cmp::Ordering::Less => behind.push(one),
                    std::cmp::Ordering::Equal => {}
                }
            }
        }
    }
    again::never_heard(platform, &said, &mut behind).await?;
    Ok((ahead, behind))
}

async fn taken(pool: &PgPool, after: &(String, String, Uuid)) -> Result<Vec<Disagreement>, Fault> {
    let select = "select consumer, topic, aggregate, last_seq from inbox_sequence where (consumer, topic, aggregate) > ($1, $2, $3)
                  order by consumer, topic, aggregate limit $4";
    let rows = sqlx::query(select).bind(&after.0).bind(&after.1).bind(after.2).bind(PAGE).fetch_all(pool).await?;
    let read = |row: &sqlx::postgres::PgRow| -> Result<Disagreement, sqlx::Error> {
        Ok(Disagreement {
            consumer: row.try_get("consumer")?,
            topic: row.try_get("topic")?,
            aggregate: row.try_get("aggregate")?,
            taken: row.try_get("last_seq")?,
            said: 0,
        })
    };
    Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
}

/// All databases, and how each topic's sender tells what it has said.
pub(super) struct Said {
    pub(super) kafka: KafkaSettings,
    pub(super) databases: BTreeMap<&'static str, Db>,
    queries: HashMap<&'static str, (&'static str, &'static str)>,
    // the connections belong to it
    _tasks: Tasks,
}

impl Said {
    pub(super) async fn open(platform: &Platform) -> Result<Said, StartError> {
        let (stores, roles) = settings(platform)?;
        let tasks = Tasks::new();
        let (mut databases, mut queries) = (BTreeMap::new(), HashMap::new());
        for role in roles {
            databases.insert(role.name(), Db::connect(&stores.database(role.name()), &tasks).await?);
            queries.extend(role.sequences().iter().map(|(topic, query)| (*topic, (role.name(), *query))));
        }
        for topic in platform.topics {
            if !queries.contains_key(topic) {
                return Err(StartError::Failed(format!("no role tells what it has said in topic {topic}")));
            }
        }
        Ok(Said { kafka: stores.kafka, databases, queries, _tasks: tasks })
    }

    /// Which shop this is.
    async fn origin(&self) -> Result<Origin, StartError> {
        let mut databases = BTreeMap::new();
        for (role, db) in &self.databases {
            let born = "select (extract(epoch from min(installed_on)) * 1000000)::bigint from chassis_migrations";
            let born: i64 = sqlx::query_scalar(born).fetch_one(db.read()).await.map_err(Fault::from)?;
            databases.insert((*role).to_owned(), born);
        }
        Ok(Origin { databases })
    }

    /// The number of the latest event of each of these aggregates; those without any are missing.
    async fn numbers_of<'t>(&self, asked: impl Iterator<Item = (&'t str, Uuid)>) -> Result<HashMap<(String, Uuid), i64>, StartError> {
        let mut topics: BTreeMap<&str, Vec<Uuid>> = BTreeMap::new();
        asked.for_each(|(topic, aggregate)| topics.entry(topic).or_default().push(aggregate));
        let mut numbers = HashMap::new();
        for (topic, aggregates) in topics {
            let Some((role, query)) = self.queries.get(topic) else {
                return Err(StartError::Failed(format!("nobody says anything in topic {topic}")));
            };
            let rows = sqlx::query(*query).bind(&aggregates).fetch_all(self.databases[role].read()).await.map_err(Fault::from)?;
            for row in &rows {
                let of = |row: &sqlx::postgres::PgRow| Ok::<(Uuid, i64), sqlx::Error>((row.try_get(0)?, row.try_get(1)?));
                let (aggregate, number) = of(row).map_err(Fault::from)?;
                numbers.insert((topic.to_owned(), aggregate), number);
            }
        }
        Ok(numbers)
    }
}

fn settings(platform: &Platform) -> Result<(Stores, Vec<&dyn Role>), StartError> {
    let mut source = Source::new(config::process_env());
    let roles: Vec<&dyn Role> = platform.roles.iter().map(AsRef::as_ref).filter(|role| role.migrations().is_some()).collect();
    let stores = Stores::read(&mut source, &roles);
    if source.errors().is_empty() { Ok((stores, roles)) } else { Err(StartError::Config(source.errors().to_vec())) }
}
