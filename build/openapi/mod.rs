//! The REST face of the contracts as an OpenAPI 3.1 document.

mod comments;
mod constraints;
mod errors;
mod example;
mod operation;
mod schema;

use super::{
    Result,
    descriptors::OURS,
    policy::{self, Policy},
};
use comments::Comment;
use prost_reflect::DescriptorPool;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;

/// The document as JSON text.
pub fn generate(pool: &DescriptorPool) -> Result<String> {
    let policies = policy::all(pool)?;
    let mut schemas = schema::Schemas::new(pool, &policies);
    let reasons = errors::Reasons::read(pool)?;
    let mut paths: BTreeMap<String, Map<String, Json>> = BTreeMap::new();
    let mut tags = Vec::new();
    for service in pool.services().filter(|s| s.package_name().starts_with(OURS)) {
        let public: Vec<&Policy> = policies.iter().filter(|p| *p.method.parent_service() == service && !p.http.is_empty()).collect();
        if !public.is_empty() {
            tags.push(json!({"name": service.name(), "description": Comment::read(&service.parent_file(), service.path())?.text}));
        }
        for policy in public {
            for (nth, binding) in policy.http.iter().enumerate() {
                let operation = operation::Operation { policy, binding, nth }.describe(&mut schemas, &reasons)?;
                let verbs = paths.entry(operation.path).or_default();
                if verbs.insert(binding.verb.to_lowercase(), operation.body).is_some() {
                    return Err(format!("{}: {} {} is taken", policy.method.full_name(), binding.verb, binding.template));
                }
            }
        }
    }
    let mut components = schemas.finish()?;
    components.extend(errors::schemas());
    let document = json!({
        "openapi": "3.1.0",
        "info": info(),
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": components,
            "parameters": {"IdempotencyKey": idempotency_key()},
            "securitySchemes": {"bearerAuth": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "The access token of POST /auth/login."
            }},
        },
    });
    serde_json::to_string(&document).map_err(|e| e.to_string())
}

fn info() -> Json {
    json!({
        "title": "Mercato",
        "version": std::env::var("CARGO_PKG_VERSION").unwrap_or_default(),
        "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        "description": "A commerce backend. Every operation here is also a gRPC and gRPC-Web method of the same contract; \
            fields keep their meaning, 64-bit integers are JSON strings, times are RFC 3339 in UTC. \
            A refusal answers with a Status whose first detail is an ErrorInfo; decide by its `reason`, never by its message.",
    })
}

fn idempotency_key() -> Json {
    json!({
        "name": "Idempotency-Key",
        "in": "header",
        "required": true,
        "description": "Names this attempt, 1 to 64 visible ASCII characters; a new UUID is a good choice. Repeating a request with the same \
            key answers with the same bytes and has no further effect; another request with the same key is refused.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[!-~]+$"},
        "example": "0198f2c4-7a1b-7c3d-8e4f-00000000abcd",
    })
}
