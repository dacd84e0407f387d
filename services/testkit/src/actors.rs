//! Who calls in a test. An actor signs requests, with a fresh idempotency key each unless told otherwise.

use crate::TestKeys;
use mercato_chassis::token::{PEER_HEADER, PeerCredentials};
use tonic::{
    Request, Status,
    metadata::{AsciiMetadataValue, MetadataMap},
    service::Interceptor,
};
use uuid::Uuid;

/// Somebody who calls.
pub trait Actor {
    /// Adds what the actor proves itself with.
    fn sign(&self, metadata: &mut MetadataMap);

    /// A request with a fresh idempotency key.
    fn request<M>(&self, message: M) -> Request<M> {
        self.request_with_key(message, &Uuid::now_v7().to_string())
    }

    /// A request with this idempotency key.
    fn request_with_key<M>(&self, message: M, key: &str) -> Request<M> {
        let mut request = self.request_without_key(message);
        request.metadata_mut().insert("idempotency-key", value(key));
        request
    }

    /// A request without an idempotency key.
    fn request_without_key<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        self.sign(request.metadata_mut());
        request
    }

    /// An interceptor for generated clients: signs every call and gives it a fresh idempotency key unless it has one.
    fn signed(&self) -> Signed {
        let mut metadata = MetadataMap::new();
        self.sign(&mut metadata);
        Signed { metadata }
    }
}

fn value(text: &str) -> AsciiMetadataValue {
    text.parse().expect("metadata of tests is ascii")
}

/// Signs every call of a client.
#[derive(Debug, Clone)]
pub struct Signed {
    metadata: MetadataMap,
}

impl Interceptor for Signed {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for name in ["authorization", PEER_HEADER] {
            if let Some(value) = self.metadata.get(name) {
                request.metadata_mut().insert(name, value.clone());
            }
        }
        if request.metadata().get("idempotency-key").is_none() {
            request.metadata_mut().insert("idempotency-key", value(&Uuid::now_v7().to_string()));
        }
        Ok(request)
    }
}

/// Nobody we know.
#[derive(Debug, Clone, Copy)]
pub struct Guest;

impl Actor for Guest {
    fn sign(&self, _: &mut MetadataMap) {}
}

/// A customer.
#[derive(Debug, Clone)]
pub struct Customer {
    /// The customer's id.
    pub id: Uuid,
    token: String,
}

impl Customer {
    /// A new customer with a token.
    pub fn new() -> Self {
        Self::with_id(Uuid::now_v7())
    }

    /// A known customer with a token.
    pub fn with_id(id: Uuid) -> Self {
        Self { id, token: TestKeys::shared().token(id, &["customer"]) }
    }

    /// A customer with this token.
    pub fn with_token(id: Uuid, token: String) -> Self {
        Self { id, token }
    }

    /// The bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl Default for Customer {
    fn default() -> Self {
        Self::new()
    }
}

impl Actor for Customer {
    fn sign(&self, metadata: &mut MetadataMap) {
        metadata.insert("authorization", value(&format!("Bearer {}", self.token)));
    }
}

/// Somebody who works here.
#[derive(Debug, Clone)]
pub struct Staff {
    /// Its id.
    pub id: Uuid,
    token: String,
}

impl Staff {
    /// With the role `staff`.
    pub fn new() -> Self {
        Self::with_roles(&["staff"])
    }

    /// With the role `admin`.
    pub fn admin() -> Self {
        Self::with_roles(&["admin"])
    }

    /// With these roles.
    pub fn with_roles(roles: &[&str]) -> Self {
        let id = Uuid::now_v7();
        Self { id, token: TestKeys::shared().token(id, roles) }
    }

    /// The bearer token.
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl Default for Staff {
    fn default() -> Self {
        Self::new()
    }
}

impl Actor for Staff {
    fn sign(&self, metadata: &mut MetadataMap) {
        metadata.insert("authorization", value(&format!("Bearer {}", self.token)));
    }
}

/// Another role.
#[derive(Clone)]
pub struct PeerActor {
    role: &'static str,
    credentials: PeerCredentials,
}

impl PeerActor {
    pub(crate) fn new(role: &'static str, secret: &str) -> Self {
        Self { role, credentials: PeerCredentials::new(secret.to_owned().into()) }
    }
}

impl Actor for PeerActor {
    fn sign(&self, metadata: &mut MetadataMap) {
        let header = self.credentials.header(self.role);
        metadata.insert(PEER_HEADER, value(header.to_str().unwrap_or_default()));
    }
}
