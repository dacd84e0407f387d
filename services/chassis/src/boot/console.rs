//! Statements that an operator asks a role's database, for pods that hold nothing but the program.

use super::{StartError, connected, explain, select, settings::Stores, unreached};
use crate::{
    config::{self, Source},
    error::Fault,
    pg::PgSettings,
    role::Platform,
};
use futures_util::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, Column as _, Connection as _, Either, PgConnection, Row as _, ValueRef as _,
    postgres::{PgDatabaseError, PgRow},
};
use std::time::Duration;

/// How long an operator's statement may run: longer than any of a role's, and not for ever, because it may hold locks.
const STATEMENT_LIMIT: Duration = Duration::from_secs(60);

/// How long it may wait for a lock, while others queue up behind it.
const LOCK_LIMIT: Duration = Duration::from_secs(5);

/// What PostgreSQL answered to one statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The names of the columns; none when there were no rows.
    pub columns: Vec<String>,
    /// The rows in PostgreSQL's own spelling; none stands for null.
    pub rows: Vec<Vec<Option<String>>>,
    /// Rows that were read or changed.
    pub affected: u64,
}

/// Asks the database of one role, with the settings of this process. Several statements, divided by semicolons, are one transaction unless
/// they say otherwise. Whoever may read the process's settings could ask the same with any other client.
///
/// # Errors
/// [`StartError`]: an unknown role, settings that are wrong, a server that does not answer, and what PostgreSQL says of the statement.
pub async fn ask_database(platform: &Platform, role: &str, statements: String) -> Result<Vec<Answer>, StartError> {
    let mut source = Source::new(config::process_env());
    let roles = select(platform, &[role.to_owned()], &mut source);
    let stores = Stores::read(&mut source, &roles);
    if !source.errors().is_empty() {
        return Err(StartError::Config(source.errors().to_vec()));
    }
    let [role] = roles[..] else { return Err(StartError::Config(vec!["one role has one database".into()])) };
    if role.migrations().is_none() {
        return Err(StartError::Config(vec![format!("{} has no database", role.name())]));
    }
    let settings = PgSettings { lock_timeout: LOCK_LIMIT, ..stores.database(role.name()).patient(STATEMENT_LIMIT) };
    let options = settings.limited().map(|options| options.application_name("operator"));
    let mut connection = connected(options).await.map_err(|fault| unreached(&settings, &fault, ""))?;
    let answers = answers(&mut connection, statements).await.map_err(|error| StartError::Failed(said(&error)))?;
    connection.close().await.map_err(Fault::from)?;
    Ok(answers)
}

async fn answers(connection: &mut PgConnection, statements: String) -> Result<Vec<Answer>, sqlx::Error> {
    let (mut answers, mut current) = (Vec::new(), Answer::default());
    let mut told = sqlx::raw_sql(AssertSqlSafe(statements)).fetch_many(connection);
    while let Some(part) = told.try_next().await? {
        match part {
            Either::Left(done) => {
                current.affected = done.rows_affected();
                answers.push(std::mem::take(&mut current));
            }
            Either::Right(row) => {
                if current.columns.is_empty() {
                    current.columns = row.columns().iter().map(|column| column.name().to_owned()).collect();
                }
                current.rows.push(texts(&row)?);
            }
        }
    }
    Ok(answers)
}

/// What is wrong, in PostgreSQL's words.
fn said(error: &sqlx::Error) -> String {
    let Some(cause) = error.as_database_error().and_then(|cause| cause.try_downcast_ref::<PgDatabaseError>()) else {
        return explain(&Fault::Unavailable { peer: "postgresql".into(), detail: error.to_string() });
    };
    let more = [("detail", cause.detail()), ("hint", cause.hint())];
    let more = more.into_iter().filter_map(|(what, text)| Some(format!("\n{what}: {}", text?)));
    format!("postgresql says: {}{}", cause.message(), more.collect::<String>())
}

/// The simple protocol tells every value as text.
fn texts(row: &PgRow) -> Result<Vec<Option<String>>, sqlx::Error> {
    (0..row.len())
        .map(|i| {
            let value = row.try_get_raw(i)?;
            if value.is_null() {
                return Ok(None);
            }
            value.as_str().map(|text| Some(text.to_owned())).map_err(sqlx::Error::Decode)
        })
        .collect()
}
