//! What can go wrong, and the one place where an error becomes a gRPC status.

use mercato_contracts::validate::Violations;
use std::{collections::BTreeMap, time::Duration};
use tonic::{Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// `ErrorInfo.domain` of errors that belong to no single service.
pub const DOMAIN: &str = "mercato";

/// Response metadata: the HTTP status the edge shall use instead of the one that follows from the gRPC code.
pub const HTTP_CODE: &str = "x-http-code";

/// Response metadata: `not-applied` or `unknown`.
pub const OUTCOME: &str = "outcome";

/// The codes a service may answer with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The request breaks a rule that does not depend on any state.
    InvalidArgument,
    /// Nobody knows who calls.
    Unauthenticated,
    /// The caller is known and may not.
    PermissionDenied,
    /// There is no such thing, or the caller may not know of it.
    NotFound,
    /// There is such a thing already.
    AlreadyExists,
    /// The state does not allow it; repeating does not help.
    FailedPrecondition,
    /// Somebody else was faster; repeating may help.
    Aborted,
    /// A limit is reached.
    ResourceExhausted,
    /// The time ran out.
    DeadlineExceeded,
    /// Something needed cannot be reached.
    Unavailable,
    /// Our own fault.
    Internal,
}

impl From<Code> for tonic::Code {
    fn from(code: Code) -> Self {
        match code {
            Code::InvalidArgument => Self::InvalidArgument,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists => Self::AlreadyExists,
            Code::FailedPrecondition => Self::FailedPrecondition,
            Code::Aborted => Self::Aborted,
            Code::ResourceExhausted => Self::ResourceExhausted,
            Code::DeadlineExceeded => Self::DeadlineExceeded,
            Code::Unavailable => Self::Unavailable,
            Code::Internal => Self::Internal,
        }
    }
}

/// Whether a failed change may have happened all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Certainly nothing changed.
    NotApplied,
    /// Nobody can tell; repeat with the same idempotency key.
    Unknown,
}

/// An error a service may answer with. Implemented once a service, by an enum with one variant a reason.
pub trait ServiceError: std::error::Error + From<Fault> + Send + Sync + 'static {
    /// The gRPC code.
    fn code(&self) -> Code;
    /// The stable reason, a value name of the service's errors.proto.
    fn reason(&self) -> &'static str;
    /// Who names the reason, such as `ordering.mercato`.
    fn domain(&self) -> &'static str;
    /// Facts for programs. Entries with an empty value are not sent, because they can crash the edge.
    fn metadata(&self) -> Vec<(&'static str, String)> {
        vec![]
    }
    /// The HTTP status over REST, where the one of the gRPC code does not fit.
    fn http_status(&self) -> Option<u16> {
        None
    }
    /// Whether it may have happened all the same.
    fn outcome(&self) -> Outcome {
        Outcome::NotApplied
    }
    /// When a repetition is worth while.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
    /// Fields at fault: path in JSON names, text for people, reason.
    fn violations(&self) -> Vec<(String, String, &'static str)> {
        vec![]
    }
    /// The fault below, when this error only wraps one; every other method must then answer as the fault does.
    fn fault(&self) -> Option<&Fault> {
        None
    }
}

/// What goes wrong below a service's own rules. Its domain is [`DOMAIN`], its reasons are those of `mercato.common.v1.Reason`.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A serialization failure, a deadlock or a lock that was not to be had in time.
    #[error("somebody else changed it at the same moment")]
    Conflict(#[source] sqlx::Error),
    /// No connection was free, or too many units of work are waiting for one.
    #[error("the database is at its limit")]
    Saturated,
    /// A unit of work used up its time and was rolled back.
    #[error("the time for the change ran out")]
    Timeout,
    /// The connection broke while committing.
    #[error("the connection broke while committing, the outcome is unknown")]
    CommitUnknown,
    /// Any other error of the database.
    #[error("database error")]
    Db(#[source] sqlx::Error),
    /// A store or a peer cannot be reached.
    #[error("{peer} is not available")]
    Unavailable {
        /// Who cannot be reached: a role, or `postgres`, `redis`, `kafka`.
        peer: String,
        /// Why, for the logs only.
        detail: String,
    },
    /// The caller's time ran out.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// A queue of ours is full.
    #[error("the service is at its limit")]
    Overloaded,
    /// The method changes something and the call has no idempotency key.
    #[error("this method needs the metadata idempotency-key")]
    IdempotencyKeyMissing,
    /// The idempotency key is not 1 to 64 visible ASCII characters.
    #[error("the idempotency key must be 1 to 64 visible ascii characters")]
    IdempotencyKeyInvalid,
    /// The key was used with another request.
    #[error("the idempotency key was used with another request")]
    IdempotencyKeyReused,
    /// The same request is still running.
    #[error("the same request is still running")]
    InProgress,
    /// A refusal given before under the same idempotency key.
    #[error("{}", .0.message())]
    Replayed(Box<Status>),
    /// A peer's definite refusal.
    #[error("{}", .0.message())]
    Remote(Box<Status>),
    /// No token where one is needed.
    #[error("this method needs a token")]
    TokenMissing,
    /// The token or peer credential does not hold. The text may be shown.
    #[error("the token is not valid: {0}")]
    TokenInvalid(String),
    /// The caller may not. The text may be shown.
    #[error("{0}")]
    NotAllowed(String),
    /// A fault of ours. The text goes to the logs only.
    #[error("{0}")]
    Internal(String),
}

impl ServiceError for Fault {
    fn code(&self) -> Code {
        match self {
            Self::Conflict(_) | Self::InProgress => Code::Aborted,
            Self::Saturated | Self::Overloaded => Code::ResourceExhausted,
            Self::Timeout | Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::CommitUnknown | Self::Unavailable { .. } => Code::Unavailable,
            Self::Db(_) | Self::Internal(_) => Code::Internal,
            Self::IdempotencyKeyMissing | Self::IdempotencyKeyInvalid => Code::InvalidArgument,
            Self::IdempotencyKeyReused => Code::FailedPrecondition,
            Self::Replayed(status) | Self::Remote(status) => code_of(status),
            Self::TokenMissing | Self::TokenInvalid(_) => Code::Unauthenticated,
            Self::NotAllowed(_) => Code::PermissionDenied,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Conflict(_) => "CONFLICT",
            Self::Saturated | Self::Overloaded => "OVERLOADED",
            Self::Timeout | Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::CommitUnknown => "OUTCOME_UNKNOWN",
            Self::Unavailable { .. } => "UNAVAILABLE",
            Self::Db(_) | Self::Internal(_) => "INTERNAL",
            Self::IdempotencyKeyMissing => "IDEMPOTENCY_KEY_MISSING",
            Self::IdempotencyKeyInvalid => "IDEMPOTENCY_KEY_INVALID",
            Self::IdempotencyKeyReused => "IDEMPOTENCY_KEY_REUSED",
            Self::InProgress => "REQUEST_IN_PROGRESS",
            // The true reason is in the status' own details, which are passed on as they are.
            Self::Replayed(_) | Self::Remote(_) => "REASON_UNSPECIFIED",
            Self::TokenMissing => "TOKEN_MISSING",
            Self::TokenInvalid(_) => "TOKEN_INVALID",
            Self::NotAllowed(_) => "CALLER_NOT_ALLOWED",
        }
    }

    fn domain(&self) -> &'static str {
        DOMAIN
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Unavailable { peer, .. } => vec![("peer", peer.clone())],
            _ => vec![],
        }
    }

    fn http_status(&self) -> Option<u16> {
        match self {
            Self::IdempotencyKeyReused => Some(422),
            Self::Saturated | Self::Overloaded => Some(503),
            _ => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::CommitUnknown | Self::DeadlineExceeded => Outcome::Unknown,
            _ => Outcome::NotApplied,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Conflict(_) => Some(Duration::from_millis(50)),
            Self::Saturated | Self::Overloaded => Some(Duration::from_millis(200)),
            Self::InProgress => Some(Duration::from_millis(500)),
            Self::CommitUnknown | Self::Unavailable { .. } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    fn fault(&self) -> Option<&Fault> {
        Some(self)
    }
}

impl Fault {
    /// The same fault for another who waits for the same thing. Errors of the database keep their text only.
    pub fn again(&self) -> Fault {
        match self {
            Self::Conflict(error) => Self::Conflict(sqlx::Error::Protocol(error.to_string())),
            Self::Saturated => Self::Saturated,
            Self::Timeout => Self::Timeout,
            Self::CommitUnknown => Self::CommitUnknown,
            Self::DeadlineExceeded => Self::DeadlineExceeded,
            Self::Overloaded => Self::Overloaded,
            Self::InProgress => Self::InProgress,
            Self::Unavailable { peer, detail } => Self::Unavailable { peer: peer.clone(), detail: detail.clone() },
            Self::Db(error) => Self::Db(sqlx::Error::Protocol(error.to_string())),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let postgres = |detail: &dyn std::fmt::Display| Self::Unavailable { peer: "postgres".into(), detail: detail.to_string() };
        match &error {
            sqlx::Error::PoolTimedOut => Self::Saturated,
            sqlx::Error::PoolClosed | sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
                postgres(&error)
            }
            sqlx::Error::Database(db) => match db.code().as_deref() {
                Some("40001" | "40P01" | "55P03") => Self::Conflict(error),
                // query_canceled, and the transaction and idle-in-transaction timeouts
                Some("57014" | "25P03" | "25P04") => Self::Timeout,
                Some(state) if state.starts_with("08") || state.starts_with("53") || state.starts_with("57P") => postgres(&error),
                _ => Self::Db(error),
            },
            _ => Self::Db(error),
        }
    }
}

/// The name of the constraint a statement violated.
pub fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|e| e.constraint())
}

/// Bytes of a message that are told.
const MESSAGE: usize = 512;
/// Bytes of a detail that are told.
const VALUE: usize = 256;

/// Turns any error of a service into the status its caller gets. Internal errors are logged here, once, with their causes, and shown as
/// "internal error" with the trace id; nothing else may tell a caller what happened inside.
pub fn status<E: ServiceError>(error: E) -> Status {
    match error.fault() {
        Some(Fault::Replayed(status) | Fault::Remote(status)) => return (**status).clone(),
        Some(Fault::Unavailable { peer, detail }) => tracing::warn!(%peer, %detail, "not available"),
        _ => {}
    }
    let code = error.code();
    let message = short(if code == Code::Internal { internal(&error) } else { error.to_string() }, MESSAGE);
    let mut details = ErrorDetails::new();
    // An empty name or value in this map would crash the edge (docs/adr/0005).
    let metadata = error.metadata().into_iter().filter(|(name, value)| !name.is_empty() && !value.is_empty());
    details.set_error_info(
        error.reason(),
        error.domain(),
        metadata.map(|(name, value)| (name.to_owned(), short(value, VALUE))).collect::<std::collections::HashMap<_, _>>(),
    );
    let violations = error.violations();
    if !violations.is_empty() {
        let fields = violations.into_iter().take(Violations::KEPT).map(|(field, text, reason)| FieldViolation {
            reason: reason.to_owned(),
            ..FieldViolation::new(short(field, Violations::FIELD), short(text, VALUE))
        });
        details.set_bad_request(fields.collect::<Vec<_>>());
    }
    if let Some(after) = error.retry_after() {
        details.set_retry_info(Some(after));
    }
    let mut status = Status::with_error_details(code.into(), message, details);
    if let Some(http) = error.http_status() {
        status.metadata_mut().insert(HTTP_CODE, MetadataValue::from(u64::from(http)));
    }
    let outcome = match error.outcome() {
        Outcome::NotApplied => "not-applied",
        Outcome::Unknown => "unknown",
    };
    status.metadata_mut().insert(OUTCOME, MetadataValue::from_static(outcome));
    status
}

/// An error travels in headers. One that repeats what the caller sent would be as long as the caller likes, and headers too long for a peer
/// end the whole connection, with the calls of everybody else on it.
fn short(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
    text
}

/// Logs an internal error with its causes and returns what may be shown of it.
fn internal(error: &dyn std::error::Error) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    tracing::error!(%error, causes = causes.join(": "), "internal error");
    match crate::telemetry::trace_id() {
        Some(id) => format!("internal error, trace id {id}"),
        None => "internal error".to_owned(),
    }
}

fn code_of(status: &Status) -> Code {
    match status.code() {
        tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Code::InvalidArgument,
        tonic::Code::Unauthenticated => Code::Unauthenticated,
        tonic::Code::PermissionDenied => Code::PermissionDenied,
        tonic::Code::NotFound => Code::NotFound,
        tonic::Code::AlreadyExists => Code::AlreadyExists,
        tonic::Code::FailedPrecondition => Code::FailedPrecondition,
        tonic::Code::Aborted => Code::Aborted,
        tonic::Code::ResourceExhausted => Code::ResourceExhausted,
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Code::DeadlineExceeded,
        tonic::Code::Unavailable => Code::Unavailable,
        _ => Code::Internal,
    }
}

/// A peer's refusal, read back from its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The gRPC code.
    pub code: tonic::Code,
    /// `ErrorInfo.reason`, empty when there is none.
    pub reason: String,
    /// `ErrorInfo.domain`, empty when there is none.
    pub domain: String,
    /// `ErrorInfo.metadata`.
    pub metadata: BTreeMap<String, String>,
}

impl Refusal {
    /// Reads the refusal out of a status.
    pub fn of(status: &Status) -> Refusal {
        let info = status.get_details_error_info();
        let (reason, domain, metadata) = info.map(|i| (i.reason, i.domain, i.metadata.into_iter().collect())).unwrap_or_default();
        Refusal { code: status.code(), reason, domain, metadata }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_tells_its_reason_outcome_and_http_status() {
        let status = status(Fault::IdempotencyKeyReused);
        let refusal = Refusal::of(&status);
        assert_eq!(
            (refusal.code, refusal.reason.as_str(), refusal.domain.as_str()),
            (tonic::Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED", DOMAIN)
        );
        assert_eq!(status.metadata().get(HTTP_CODE).unwrap().to_str().unwrap(), "422");
        assert_eq!(status.metadata().get(OUTCOME).unwrap(), "not-applied");
    }

    #[test]
    fn internal_errors_do_not_show_their_text() {
        let status = status(Fault::Internal("password is hunter2".into()));
        assert_eq!(status.code(), tonic::Code::Internal);
        assert!(status.message().starts_with("internal error"), "{}", status.message());
    }

    #[test]
    fn an_error_that_repeats_the_caller_stays_short() {
        let status = status(Fault::NotAllowed("\u{1f469}".repeat(50_000)));
        assert!(status.message().len() <= MESSAGE, "{} bytes", status.message().len());
        assert!(status.details().len() < 1024, "{} bytes of details", status.details().len());
        assert_eq!(short("\u{1f469}\u{1f469}".into(), 5), "\u{1f469}");
    }

    #[test]
    fn a_remote_refusal_is_passed_on_as_it_is() {
        let first = status(Fault::NotAllowed("no".into()));
        let second = status(Fault::Remote(Box::new(first.clone())));
        assert_eq!((second.code(), second.details()), (first.code(), first.details()));
    }
}
