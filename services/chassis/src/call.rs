//! Who calls, with which rights, and until when. The policy layer puts a [`Call`] into every request's extensions.

use crate::{error::Fault, idempotency};
use http::HeaderMap;
use mercato_contracts::methods::{Caller as Rule, Method};
use sha2::{Digest, Sha256};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::time::Instant;
use uuid::Uuid;

tokio::task_local! {
    static DEADLINE: Instant;
}

/// Until when the current call may take; none outside a call. Spawned units of work inherit it.
pub fn current_deadline() -> Option<Instant> {
    DEADLINE.try_with(|deadline| *deadline).ok()
}

/// Runs a future with this deadline as [`current_deadline`]. It is not enforced here.
pub fn with_deadline<F: Future>(deadline: Instant, future: F) -> impl Future<Output = F::Output> {
    DEADLINE.scope(deadline, future)
}

/// The same for a function.
pub(crate) fn with_deadline_sync<T>(deadline: Instant, f: impl FnOnce() -> T) -> T {
    DEADLINE.sync_scope(deadline, f)
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody we know.
    Anonymous,
    /// A person or program with a token.
    Subject(Subject),
    /// Another role of ours.
    Peer(String),
}

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The subject's id.
    pub id: Uuid,
    /// Roles held.
    pub roles: Vec<String>,
    /// The session the token belongs to.
    pub session: Option<Uuid>,
}

impl Subject {
    /// Whether at least one of these roles is held.
    pub fn has_any(&self, roles: &[&str]) -> bool {
        self.roles.iter().any(|held| roles.contains(&held.as_str()))
    }
}

/// The rows a caller may see; every store function that reads or changes owned rows demands one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The rows of this owner.
    Owner(Uuid),
    /// Every row.
    All,
}

impl Scope {
    /// The owner, or nothing for all: `($2::uuid is null or customer_id = $2)`.
    pub fn owner(self) -> Option<Uuid> {
        match self {
            Self::Owner(id) => Some(id),
            Self::All => None,
        }
    }
}

/// One authenticated and authorised call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method and its policy.
    pub method: &'static Method,
    /// Who calls.
    pub caller: Caller,
    /// Until when the answer is wanted.
    pub deadline: Instant,
    headers: Arc<HeaderMap>,
    /// Whether the handler asked whose rows it may touch; the server refuses to answer for an owner's method that did not.
    judged: Arc<AtomicBool>,
}

impl Call {
    /// Made by the policy layer only.
    pub(crate) fn new(method: &'static Method, caller: Caller, deadline: Instant, headers: HeaderMap) -> Self {
        Self { method, caller, deadline, headers: Arc::new(headers), judged: Arc::default() }
    }

    /// The call behind a request.
    ///
    /// # Errors
    /// INTERNAL when the request did not come through the policy layer.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Call, tonic::Status> {
        let missing = || crate::error::status(Fault::Internal("the request did not pass the policy layer".into()));
        request.extensions().get::<Call>().cloned().ok_or_else(missing)
    }

    /// Whom the token speaks for.
    ///
    /// # Errors
    /// [`Fault::TokenMissing`] for an anonymous caller, [`Fault::NotAllowed`] for a peer.
    pub fn subject(&self) -> Result<&Subject, Fault> {
        match &self.caller {
            Caller::Subject(subject) => Ok(subject),
            Caller::Anonymous => Err(Fault::TokenMissing),
            Caller::Peer(role) => Err(Fault::NotAllowed(format!("{role} calls for nobody"))),
        }
    }

    /// The rows this caller may see: all for a peer and for a holder of one of the method's roles, else the subject's own.
    ///
    /// # Errors
    /// [`Fault::TokenMissing`] for an anonymous caller.
    pub fn scope(&self) -> Result<Scope, Fault> {
        self.judged.store(true, Ordering::Relaxed);
        Ok(if self.sees_all() { Scope::All } else { Scope::Owner(self.subject()?.id) })
    }

    /// The owner a request names, by id or by the word `me`, when the caller may act for it.
    ///
    /// # Errors
    /// [`Fault::NotAllowed`] when it is somebody else's, [`Fault::TokenMissing`] for an anonymous caller.
    pub fn owned(&self, id_or_me: &str) -> Result<Uuid, Fault> {
        self.judged.store(true, Ordering::Relaxed);
        if id_or_me == "me" {
            return Ok(self.subject()?.id);
        }
        let refused = || Fault::NotAllowed("this belongs to somebody else".into());
        let id = Uuid::parse_str(id_or_me).map_err(|_| refused())?;
        if self.sees_all() || self.subject()?.id == id { Ok(id) } else { Err(refused()) }
    }

    fn sees_all(&self) -> bool {
        match &self.caller {
            Caller::Peer(_) => true,
            Caller::Anonymous => false,
            Caller::Subject(subject) => {
                subject.has_any(self.method.or_roles) || matches!(self.method.caller, Rule::Roles(roles) if subject.has_any(roles))
            }
        }
    }

    /// Whether an owner's method was answered although nobody asked whose rows it may touch: a mistake in the handler.
    pub(crate) fn unjudged(&self) -> bool {
        matches!(self.method.caller, Rule::OwnerField(_)) && !self.judged.load(Ordering::Relaxed)
    }

    /// The key under which this call happens once: method, subject, the caller's key and a fingerprint of the request.
    ///
    /// # Errors
    /// [`Fault::IdempotencyKeyMissing`] when the call has none.
    pub fn idempotency<M: prost::Message>(&self, request: &M) -> Result<idempotency::Key, Fault> {
        let key = self.metadata(IDEMPOTENCY_KEY).ok_or(Fault::IdempotencyKeyMissing)?;
        let subject = match &self.caller {
            Caller::Anonymous => "anonymous".to_owned(),
            Caller::Subject(subject) => subject.id.to_string(),
            Caller::Peer(role) => format!("peer:{role}"),
        };
        let fingerprint: [u8; 32] = Sha256::digest(request.encode_to_vec()).into();
        Ok(idempotency::Key::new(self.method.path, subject, key, fingerprint))
    }

    /// A text value of the request's metadata.
    pub fn metadata(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The client's address as the edge saw it; none for calls that did not come through the edge.
    pub fn client_address(&self) -> Option<&str> {
        self.metadata("x-envoy-external-address")
    }

    /// The verified bearer token, to be passed on.
    pub fn token(&self) -> Option<&str> {
        self.metadata("authorization").and_then(bearer)
    }
}

/// Request metadata that names a change.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The token of an `authorization` header.
pub(crate) fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
