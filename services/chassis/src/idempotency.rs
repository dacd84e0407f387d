//! Once per idempotency key: the answer, or the definite refusal, is stored in the transaction of its effect and given again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgRow;
use sqlx::{Executor as _, PgConnection, Row as _};
use tonic::metadata::MetadataValue;
use tonic::{Code as Grpc, Status};
use uuid::Uuid;

use crate::batch::Batcher;
use crate::error::{Code, Fault, HTTP_CODE, OUTCOME, ServiceError, status};
use crate::jobs::Job;
use crate::pg::Db;
use crate::tasks::Tasks;

/// Response metadata of an answer or refusal that was given before.
pub const REPLAYED: &str = "idempotent-replayed";

/// Between two looks for keys under load.
const PACE: Duration = Duration::from_millis(10);

/// What makes a call the same call: who, which method, the caller's key, and a fingerprint of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    method: &'static str,
    subject: String,
    key: String,
    fingerprint: [u8; 32],
}

impl Key {
    /// `fingerprint` is a hash of the request's canonical encoding; the same key with another fingerprint is refused.
    pub fn new(method: &'static str, subject: impl Into<String>, key: impl Into<String>, fingerprint: [u8; 32]) -> Key {
        Key { method, subject: subject.into(), key: key.into(), fingerprint }
    }

    /// Full name of the method.
    pub fn method(&self) -> &'static str {
        self.method
    }

    /// Who calls; the same key of another subject is another key.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The caller's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Hash of the request.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// What makes two calls the same call.
    fn name(&self) -> (&str, &str, &str) {
        (&self.subject, self.method, &self.key)
    }

    /// An id that a repetition of the call finds again: UUIDv8 over the label and the key.
    pub fn derived_uuid(&self, label: &str) -> Uuid {
        crate::ids::derived(label, &[self.method, &self.subject, &self.key])
    }
}

/// An answer, and whether it was given before.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<M> {
    /// The answer itself.
    pub message: M,
    /// True when it comes from the store.
    pub replayed: bool,
}

impl<M> Answer<M> {
    /// The response, marked with the header `idempotent-replayed` when it was given before.
    pub fn into_response(self) -> tonic::Response<M> {
        crate::plant::crash_point("C-02");
        let mut response = tonic::Response::new(self.message);
        if self.replayed {
            response.metadata_mut().insert(REPLAYED, MetadataValue::from_static("true"));
        }
        response
    }
}

/// Runs `f` once per key, in one transaction with the record of its outcome.
///
/// A repetition gets the stored answer, or the stored refusal as [`Fault::Replayed`]. Refusals are stored when repeating the call could
/// not change them by itself: not found, already exists, failed precondition, permission denied. Everything else leaves the key free.
/// A refusal that was stored just now is returned as [`Fault::Replayed`] as well, with the same status.
/// Errors: [`Fault::IdempotencyKeyReused`] for another request, [`Fault::InProgress`] when a twin does not end within the lock timeout.
/// After [`Fault::CommitUnknown`] the key itself is asked once more, which either finds the outcome or does the work.
pub async fn once<M, E, F>(db: &Db, key: &Key, f: F) -> Result<Answer<M>, E>
where
    M: prost::Message + Default + 'static,
    E: ServiceError,
    F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<M, E>> + Send + Sync + 'static,
{
    let f = Arc::new(f);
    let result = attempt(db, key, f.clone()).await;
    match result {
        Err(error) if matches!(error.fault(), Some(Fault::CommitUnknown)) => match attempt(db, key, f).await {
            // Whatever kept us from asking again, the first attempt's outcome is what the caller has to know about.
            Err(again) if !matches!(again.fault(), Some(Fault::Replayed(_))) => Err(error),
            resolved => resolved,
        },
        result => result,
    }
}

enum Done<M> {
    Answered(Answer<M>),
    Refused(Box<Status>),
}

async fn attempt<M, E, F>(db: &Db, key: &Key, f: Arc<F>) -> Result<Answer<M>, E>
where
    M: prost::Message + Default + 'static,
    E: ServiceError,
    F: for<'c> Fn(&'c mut PgConnection) -> BoxFuture<'c, Result<M, E>> + Send + Sync + 'static,
{
    let key = key.clone();
    let done = db.uow(move |tx| {
        let (key, f) = (key.clone(), f.clone());
        Box::pin(async move {
            if !claim(tx, &key).await? {
                return replay(tx, &key).await.map_err(E::from);
            }
            crate::plant::crash_point("C-01");
            tx.execute("savepoint before_effect").await.map_err(Fault::from)?;
            match f(&mut *tx).await {
                Ok(message) => {
                    answered(tx, &key, &message).await?;
                    Ok(Done::Answered(Answer { message, replayed: false }))
                }
                Err(error) if is_definite(&error) => {
                    tx.execute("rollback to savepoint before_effect").await.map_err(Fault::from)?;
                    let refusal = status(error);
                    refused(tx, &key, &refusal).await?;
                    Ok(Done::Refused(Box::new(refusal)))
                }
                Err(error) => Err(error),
            }
        })
    });
    match done.await? {
        Done::Answered(answer) => Ok(answer),
        Done::Refused(refusal) => Err(Fault::Replayed(refusal).into()),
    }
}

/// A call whose outcome is decided and now stored together with its effect.
pub struct Outcome<'a> {
    /// Which call.
    pub key: &'a Key,
    /// The encoded answer, or the definite refusal.
    pub decided: Result<&'a [u8], &'a Status>,
}

/// Stores the outcomes of several calls in the transaction of their effects; for each whether its key was free. For one that was not,
/// the caller must not let the effect happen, and asks [`find`] after the commit. Waits for twins under way elsewhere, in the order of the
/// keys. Errors: [`Fault::InProgress`] when one does not end within the lock timeout.
pub async fn record_all(tx: &mut PgConnection, outcomes: &[Outcome<'_>]) -> Result<Vec<bool>, Fault> {
    // of twins in one batch the first may have the key
    let mut seen = HashSet::with_capacity(outcomes.len());
    let first: Vec<&Outcome<'_>> = outcomes.iter().filter(|o| seen.insert(o.key.name())).collect();
    let insert = "insert into idempotency (subject, method, key, fingerprint, code, response, message, http_code)
                  select o.subject, o.method, o.key, o.fingerprint, o.code, o.response, o.message, o.http_code
                  from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::int[], $6::bytea[], $7::text[], $8::text[])
                       as o (subject, method, key, fingerprint, code, response, message, http_code)
                  order by o.subject, o.method, o.key
                  on conflict do nothing returning subject, method, key";
    let text = |f: fn(&Key) -> &str| first.iter().map(|o| f(o.key)).collect::<Vec<_>>();
    let http = |s: &'_ Status| s.metadata().get(HTTP_CODE).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let inserted = sqlx::query_as::<_, (String, String, String)>(insert)
        .bind(text(Key::subject))
        .bind(text(|key| key.method))
        .bind(text(Key::key))
        .bind(first.iter().map(|o| &o.key.fingerprint[..]).collect::<Vec<_>>())
        .bind(first.iter().map(|o| o.decided.err().map_or(Grpc::Ok, Status::code) as i32).collect::<Vec<_>>())
        .bind(first.iter().map(|o| o.decided.unwrap_or_else(Status::details)).collect::<Vec<_>>())
        .bind(first.iter().map(|o| o.decided.err().map(Status::message)).collect::<Vec<_>>())
        .bind(first.iter().map(|o| o.decided.err().and_then(http)).collect::<Vec<_>>())
        .fetch_all(tx)
        .await;
    let rows = match inserted {
        Ok(rows) => rows,
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => return Err(Fault::InProgress),
        Err(error) => return Err(error.into()),
    };
    crate::plant::crash_point("C-01");
    let mut free: HashSet<(&str, &str, &str)> = rows.iter().map(|(s, m, k)| (s.as_str(), m.as_str(), k.as_str())).collect();
    Ok(outcomes.iter().map(|o| free.remove(&o.key.name())).collect())
}

/// The stored outcome of a key, to be looked for before anything expensive is done. Errors: [`Fault::IdempotencyKeyReused`].
pub async fn find<M: prost::Message + Default>(db: &Db, key: &Key) -> Result<Option<Result<Answer<M>, Status>>, Fault> {
    let mut connection = db.read().acquire().await?;
    Ok(stored(&mut connection, key).await?.map(|done| match done {
        Done::Answered(answer) => Ok(answer),
        Done::Refused(refusal) => Err(*refusal),
    }))
}

/// Takes the key; false when it has an outcome already. Waits for a twin that is under way.
async fn claim(tx: &mut PgConnection, key: &Key) -> Result<bool, Fault> {
    let insert = "insert into idempotency (subject, method, key, fingerprint) values ($1, $2, $3, $4) on conflict do nothing";
    let inserted = sqlx::query(insert).bind(&key.subject).bind(key.method).bind(&key.key).bind(&key.fingerprint[..]).execute(tx).await;
    match inserted {
        Ok(done) => Ok(done.rows_affected() == 1),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => Err(Fault::InProgress),
        Err(error) => Err(error.into()),
    }
}

async fn replay<M: prost::Message + Default>(tx: &mut PgConnection, key: &Key) -> Result<Done<M>, Fault> {
    // The key was there and is gone: a twin was rolled back, or the record expired just now. The caller may simply repeat.
    stored(tx, key).await?.ok_or(Fault::InProgress)
}

async fn stored<M: prost::Message + Default>(tx: &mut PgConnection, key: &Key) -> Result<Option<Done<M>>, Fault> {
    let select = "select fingerprint, code, response, message, http_code from idempotency
                  where subject = $1 and method = $2 and key = $3 and code is not null";
    let row = sqlx::query(select).bind(&key.subject).bind(key.method).bind(&key.key).fetch_optional(tx).await?;
    row.map(|row| Stored::read(&row)?.outcome(key)).transpose()
}

/// A record as it lies in the table.
struct Stored {
    fingerprint: Vec<u8>,
    code: i32,
    response: Vec<u8>,
    message: Option<String>,
    http_code: Option<String>,
}

impl Stored {
    fn read(row: &PgRow) -> Result<Stored, Fault> {
        Ok(Stored {
            fingerprint: row.try_get("fingerprint")?,
            code: row.try_get("code")?,
            response: row.try_get("response")?,
            message: row.try_get("message")?,
            http_code: row.try_get("http_code")?,
        })
    }

    /// What it tells whoever comes with this key.
    fn outcome<M: prost::Message + Default>(self, key: &Key) -> Result<Done<M>, Fault> {
        if self.fingerprint != key.fingerprint && !crate::plant::bug("bug-13") {
            return Err(Fault::IdempotencyKeyReused);
        }
        let code = Grpc::from_i32(self.code);
        if code == Grpc::Ok {
            let message =
                M::decode(&self.response[..]).map_err(|error| Fault::Internal(format!("a stored answer cannot be read: {error}")))?;
            return Ok(Done::Answered(Answer { message, replayed: true }));
        }
        let mut refusal = Status::with_details(code, self.message.unwrap_or_default(), self.response.into());
        let metadata = refusal.metadata_mut();
        if let Some(http) = self.http_code.and_then(|text| MetadataValue::try_from(text).ok()) {
            metadata.insert(HTTP_CODE, http);
        }
        metadata.insert(OUTCOME, MetadataValue::from_static("not-applied"));
        metadata.insert(REPLAYED, MetadataValue::from_static("true"));
        Ok(Done::Refused(Box::new(refusal)))
    }
}

/// Looks for keys, many with one statement. Clones share the loop.
#[derive(Clone)]
pub struct Finder(Batcher<Arc<Key>, Result<Option<Stored>, Fault>>);

impl Finder {
    /// Starts the loop.
    pub fn spawn(db: &Db, tasks: &Tasks) -> Finder {
        let db = db.clone();
        Finder(Batcher::paced(tasks, "idempotency keys", 1024, 256, PACE, move |keys: Vec<Arc<Key>>| {
            let db = db.clone();
            Box::pin(async move {
                match look(&db, &keys).await {
                    Ok(found) => found.into_iter().map(Ok).collect(),
                    Err(fault) => keys.iter().map(|_| Err(fault.again())).collect(),
                }
            })
        }))
    }

    /// The same as [`find`].
    pub async fn find<M: prost::Message + Default>(&self, key: &Key) -> Result<Option<Result<Answer<M>, Status>>, Fault> {
        let found = self.0.submit(Arc::new(key.clone())).await??;
        Ok(found.map(|stored| stored.outcome(key)).transpose()?.map(|done| match done {
            Done::Answered(answer) => Ok(answer),
            Done::Refused(refusal) => Err(*refusal),
        }))
    }
}

async fn look(db: &Db, keys: &[Arc<Key>]) -> Result<Vec<Option<Stored>>, Fault> {
    let select = "select k.nth, i.fingerprint, i.code, i.response, i.message, i.http_code
                  from unnest($1::text[], $2::text[], $3::text[]) with ordinality as k (subject, method, key, nth)
                  join idempotency i on i.subject = k.subject and i.method = k.method and i.key = k.key
                  where i.code is not null";
    let text = |f: fn(&Key) -> &str| keys.iter().map(|key| f(key).to_owned()).collect::<Vec<_>>();
    let select = sqlx::query(select).bind(text(Key::subject)).bind(text(|key| key.method)).bind(text(Key::key));
    let rows = db.look(|connection| Box::pin(async move { Ok(select.fetch_all(connection).await?) })).await?;
    let mut found: Vec<Option<Stored>> = keys.iter().map(|_| None).collect();
    for row in rows {
        let nth: i64 = row.try_get("nth")?;
        if let Some(place) = usize::try_from(nth - 1).ok().and_then(|nth| found.get_mut(nth)) {
            *place = Some(Stored::read(&row)?);
        }
    }
    Ok(found)
}

async fn answered(tx: &mut PgConnection, key: &Key, message: &impl prost::Message) -> Result<(), Fault> {
    outcome(tx, key, Grpc::Ok, &message.encode_to_vec(), None, None).await
}

async fn refused(tx: &mut PgConnection, key: &Key, refusal: &Status) -> Result<(), Fault> {
    let http = refusal.metadata().get(HTTP_CODE).and_then(|value| value.to_str().ok());
    outcome(tx, key, refusal.code(), refusal.details(), Some(refusal.message()), http).await
}

async fn outcome(
    tx: &mut PgConnection,
    key: &Key,
    code: Grpc,
    response: &[u8],
    message: Option<&str>,
    http: Option<&str>,
) -> Result<(), Fault> {
    let update = "update idempotency set code = $4, response = $5, message = $6, http_code = $7
                  where subject = $1 and method = $2 and key = $3";
    sqlx::query(update)
        .bind(&key.subject)
        .bind(key.method)
        .bind(&key.key)
        .bind(code as i32)
        .bind(response)
        .bind(message)
        .bind(http)
        .execute(tx)
        .await?;
    Ok(())
}

/// A refusal of the rules, not of the moment.
fn is_definite<E: ServiceError>(error: &E) -> bool {
    let refusal = matches!(error.fault(), None | Some(Fault::Remote(_)));
    refusal && matches!(error.code(), Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition | Code::PermissionDenied)
}

/// Deletes the keys whose time is over, a thousand a run.
pub fn cleanup(db: &Db) -> Job {
    let db = db.clone();
    Job::new("idempotency-cleanup", Duration::from_secs(60), move || {
        let db = db.clone();
        async move {
            let delete = "delete from idempotency where ctid = any(array(
                              select ctid from idempotency where expires_at <= clock_timestamp() limit 1000))";
            db.uow_within(Duration::from_secs(5), move |tx| {
                Box::pin(async move {
                    sqlx::query(delete).execute(tx).await?;
                    Ok::<_, Fault>(())
                })
            })
            .await
        }
    })
}
