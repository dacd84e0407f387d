//! The runtime every service stands on. It knows no word of commerce.
//!
//! A service implements [`role::Role`] and is started by [`boot::run`]: the chassis reads its settings, opens its stores, checks its
//! migrations, serves its RPCs behind the policy of the contracts, relays its outbox, feeds its consumers and stops it in order.
//! [`pg::Db::uow`] is the only way to write, and [`error::status`] the only way an error leaves the process.

pub mod admin;
pub mod backoff;
pub mod batch;
pub mod boot;
pub mod cache;
pub mod call;
pub mod clock;
pub mod config;
pub mod error;
pub mod grpc;
pub mod idempotency;
pub mod ids;
pub mod inbox;
pub mod jobs;
pub mod kafka;
pub mod metrics;
pub mod money;
pub mod outbox;
pub mod page_token;
pub mod pg;
pub mod plant;
pub mod redis;
pub mod role;
pub mod tasks;
pub mod telemetry;
pub mod token;
pub mod work;

pub use call::{Call, Caller, Scope, Subject, current_deadline};
pub use error::{Code, Fault, Outcome, Refusal, ServiceError, status};
pub use role::{Context, Mounted, Platform, Prepared, Role};
