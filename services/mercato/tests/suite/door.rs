//! The two doors, and what both have in common: a question and an answer in the JSON of the contracts.

use super::{grpc::Grpc, rest::Rest, shop::shop};
use async_trait::async_trait;
use mercato_contracts::methods::{Caller, METHODS, Method};
use prost_reflect::{DescriptorPool, MethodDescriptor};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};
use tonic::Code;

/// One call.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The method's name, such as `PlaceOrder`.
    pub method: &'static str,
    /// The request.
    pub body: Value,
    /// The caller's token.
    pub token: Option<String>,
    /// The idempotency key.
    pub key: Option<String>,
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The message.
    pub body: Value,
    /// The message as it travelled.
    pub bytes: Vec<u8>,
    /// Whether the header `idempotent-replayed` was there and said so.
    pub replayed: bool,
    /// The HTTP status; none over gRPC.
    pub http: Option<u16>,
    /// How often it was asked for.
    pub asked: u32,
}

/// Why it was refused.
#[derive(Debug, Clone)]
pub struct Refused {
    /// The gRPC code.
    pub code: Code,
    /// The reason's name.
    pub reason: String,
    /// Its details.
    pub metadata: BTreeMap<String, String>,
    /// The fields that break a rule.
    pub fields: Vec<String>,
    /// In words.
    pub message: String,
    /// The HTTP status; none over gRPC.
    pub http: Option<u16>,
    /// How often it was asked for.
    pub asked: u32,
}

/// What a shop says that has no time: the same question with the same key may be answered a moment later.
const NOT_NOW: [&str; 4] = ["OVERLOADED", "CONFLICT", "REQUEST_IN_PROGRESS", "OUTCOME_UNKNOWN"];

impl Refused {
    /// Whether it only says that it cannot be now.
    pub fn passing(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::DeadlineExceeded) || NOT_NOW.contains(&self.reason.as_str())
    }

    /// Fails unless it is this refusal; over REST with this status as well.
    #[track_caller]
    pub fn is(&self, http: u16, reason: &str) {
        assert_eq!(self.reason, reason, "{self:?}");
        if let Some(status) = self.http {
            assert_eq!(status, http, "{self:?}");
        }
    }
}

/// A way into the shop.
#[async_trait]
pub trait Door: Send + Sync {
    /// Asks and waits for the answer.
    async fn ask(&self, ask: Ask) -> Result<Answer, Refused>;
    /// Reads a stream of messages to its end.
    async fn listen(&self, ask: Ask) -> Result<Vec<Value>, Refused>;
}

/// REST through Envoy.
pub fn rest() -> Arc<dyn Door> {
    Arc::new(Rest::new(&shop().edge))
}

/// gRPC through Envoy.
pub fn grpc() -> Arc<dyn Door> {
    Arc::new(Grpc::new(&shop().edge))
}

/// A public method by its name.
pub fn method(name: &str) -> &'static Method {
    METHODS.iter().find(|m| m.name == name && m.caller != Caller::Peer).unwrap_or_else(|| panic!("no public method {name}"))
}

/// The contract of a method.
pub fn contract(method: &Method) -> MethodDescriptor {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| DescriptorPool::decode(mercato_contracts::FILE_DESCRIPTOR_SET).expect("our own descriptors"));
    let service = pool.get_service_by_name(method.service).expect("a service of ours");
    service.methods().find(|m| m.name() == method.name).expect("a method of ours")
}
