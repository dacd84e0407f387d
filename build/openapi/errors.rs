//! What a refusal looks like, and which reasons a method can give.

use super::comments::Comment;
use crate::generate::{
    Result,
    descriptors::OURS,
    policy::{Caller, Idempotency, Policy},
};
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// The package whose reasons every service gives.
const COMMON: &str = "mercato.common.v1";

/// gRPC codes: name, number, and the HTTP status that Envoy makes of them.
const CODES: [(&str, i32, u16); 12] = [
    ("INVALID_ARGUMENT", 3, 400),
    ("DEADLINE_EXCEEDED", 4, 504),
    ("NOT_FOUND", 5, 404),
    ("ALREADY_EXISTS", 6, 409),
    ("PERMISSION_DENIED", 7, 403),
    ("RESOURCE_EXHAUSTED", 8, 429),
    ("FAILED_PRECONDITION", 9, 400),
    ("ABORTED", 10, 409),
    ("OUT_OF_RANGE", 11, 400),
    ("INTERNAL", 13, 500),
    ("UNAVAILABLE", 14, 503),
    ("UNAUTHENTICATED", 16, 401),
];

const NOT_FOUND: i32 = 5;

/// ALREADY_EXISTS, FAILED_PRECONDITION and ABORTED: a method that only reads has nothing to conflict with.
const CHANGES_ONLY: [i32; 3] = [6, 9, 10];

/// A reason of a service.
#[derive(Clone)]
struct Reason {
    name: String,
    domain: String,
    code: i32,
    status: u16,
    text: String,
}

/// The reasons of all packages, read from the enums `Reason` and their comments `CODE: text` or `CODE, HTTP 409: text`.
pub struct Reasons(BTreeMap<String, Vec<Reason>>);

impl Reasons {
    /// Reads the reasons of every package of ours.
    pub fn read(pool: &DescriptorPool) -> Result<Self> {
        let mut packages: BTreeMap<String, Vec<Reason>> = BTreeMap::new();
        for kind in pool.all_enums().filter(|e| e.package_name().starts_with(OURS) && e.name() == "Reason" && e.parent_message().is_none())
        {
            let service = kind.package_name().trim_start_matches(OURS).split('.').next().unwrap_or_default().to_owned();
            let domain = if kind.package_name() == COMMON { "mercato".into() } else { format!("{service}.mercato") };
            for value in kind.values().filter(|v| v.number() != 0) {
                let comment = Comment::read(&kind.parent_file(), value.path())?;
                if let Some(reason) = Reason::parse(value.name(), &domain, &comment.text) {
                    packages.entry(kind.package_name().to_owned()).or_default().push(reason);
                }
            }
        }
        Ok(Self(packages))
    }

    /// The error responses of a method, by HTTP status.
    pub fn responses(&self, policy: &Policy) -> Result<BTreeMap<u16, Json>> {
        let common = self.0.get(COMMON).map(Vec::as_slice).unwrap_or_default();
        let mut by_status: BTreeMap<u16, Vec<&Reason>> = BTreeMap::new();
        for name in common_names(policy) {
            let reason = common.iter().find(|r| r.name == name);
            let reason = reason.ok_or_else(|| format!("{COMMON}.Reason: {name} is not among the values"))?;
            by_status.entry(reason.status).or_default().push(reason);
        }
        let own = self.0.get(policy.method.parent_file().package_name()).map(Vec::as_slice).unwrap_or_default();
        for reason in own.iter().filter(|r| r.fits(policy)) {
            by_status.entry(reason.status).or_default().push(reason);
        }
        Ok(by_status.into_iter().map(|(status, reasons)| (status, response(&reasons))).collect())
    }
}

/// The reasons that come from the layers before a handler, and from the stores behind it.
fn common_names(policy: &Policy) -> Vec<&'static str> {
    let mut names = vec!["REQUEST_INVALID", "TOKEN_INVALID", "RATE_LIMITED", "OVERLOADED", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED"];
    if policy.caller != Caller::Public {
        names.push("TOKEN_MISSING");
    }
    if matches!(policy.caller, Caller::Roles(_) | Caller::OwnerField(_)) {
        names.push("CALLER_NOT_ALLOWED");
    }
    if policy.idempotency == Idempotency::Key {
        names.extend(["IDEMPOTENCY_KEY_MISSING", "IDEMPOTENCY_KEY_INVALID", "IDEMPOTENCY_KEY_REUSED", "REQUEST_IN_PROGRESS"]);
    }
    if policy.idempotency != Idempotency::ReadOnly {
        names.extend(["CONFLICT", "OUTCOME_UNKNOWN"]);
    }
    names
}

impl Reason {
    /// Nothing for reasons that are never an error of a call.
    fn parse(name: &str, domain: &str, comment: &str) -> Option<Self> {
        let (head, text) = comment.split_once(": ")?;
        let (code, status) = head.split_once(", HTTP ").map_or((head, None), |(code, status)| (code, status.parse().ok()));
        let (_, number, natural) = CODES.into_iter().find(|(c, _, _)| *c == code)?;
        let (name, domain, text) = (name.to_owned(), domain.to_owned(), text.to_owned());
        Some(Self { name, domain, code: number, status: status.unwrap_or(natural), text })
    }

    /// Whether a method of the same package can give this reason: its comment names it, or no comment does and its request holds the
    /// field the reason is about.
    fn fits(&self, policy: &Policy) -> bool {
        let method = &policy.method;
        let input = method.input();
        if self.mentioned_by(method) {
            return true;
        }
        match self.name.as_str() {
            "PAGE_TOKEN_INVALID" => return input.get_field_by_name("page_token").is_some(),
            "UPDATE_MASK_INVALID" => return input.get_field_by_name("update_mask").is_some(),
            "ETAG_MISMATCH" => return fields(&input).contains("etag"),
            _ => {}
        }
        let words = self.words();
        if self.code == NOT_FOUND {
            return !method.name().starts_with("List") && words.iter().any(|word| input.get_field_by_name(word).is_some());
        }
        let pool = method.parent_pool();
        let package: Vec<_> =
            pool.services().filter(|s| s.package_name() == input.package_name()).flat_map(|s| s.methods().collect::<Vec<_>>()).collect();
        let changes = policy.idempotency != Idempotency::ReadOnly;
        if package.iter().any(|m| self.mentioned_by(m)) || (!changes && CHANGES_ONLY.contains(&self.code)) {
            return false;
        }
        let asked: BTreeSet<String> = package.iter().flat_map(|m| fields(&m.input())).collect();
        let known: Vec<&String> = words.iter().filter(|word| asked.contains(*word)).collect();
        if known.is_empty() { changes } else { fields(&input).iter().any(|field| known.contains(&field)) }
    }

    fn mentioned_by(&self, method: &MethodDescriptor) -> bool {
        let comment = Comment::read(&method.parent_file(), method.path()).unwrap_or_default();
        comment.text.split(not_name).any(|word| word == self.name)
    }

    /// What the reason is about: the names in its metadata, and its own name without its ending.
    fn words(&self) -> Vec<String> {
        let metadata = self.text.split_once("Metadata: ").map(|(_, words)| words).unwrap_or_default();
        let own = self.name.rsplit_once('_').map(|(stem, _)| stem.to_lowercase());
        metadata.split(not_name).filter(|word| !word.is_empty()).map(String::from).chain(own).collect()
    }
}

fn not_name(c: char) -> bool {
    !c.is_ascii_alphanumeric() && c != '_'
}

/// The names of a request's fields, and of those in its messages.
fn fields(message: &MessageDescriptor) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for field in message.fields() {
        names.insert(field.name().to_owned());
        if let Some(inner) = field.kind().as_message() {
            names.extend(inner.fields().map(|f| f.name().to_owned()));
        }
    }
    names
}

fn response(reasons: &[&Reason]) -> Json {
    let mut description = String::from("Refused. Reasons:");
    let mut examples = Map::new();
    for reason in reasons {
        description += &format!("\n- `{}`: {}", reason.name, reason.text);
        let info = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason.name, "domain": reason.domain});
        let status =
            json!({"code": reason.code, "message": reason.text.split(". ").next().map(|s| s.trim_end_matches('.')), "details": [info]});
        examples.insert(reason.name.clone(), json!({"value": status}));
    }
    json!({
        "description": description,
        "x-reasons": reasons.iter().map(|r| r.name.clone()).collect::<Vec<_>>(),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}, "examples": examples}},
    })
}

/// The schemas of a refusal. They are written by hand because Envoy prints details with their types, and maps as lists of pairs.
pub fn schemas() -> [(String, Json); 4] {
    let detail = |kind: &str| json!({"type": "string", "const": format!("type.googleapis.com/google.rpc.{kind}")});
    let info = json!({
        "type": "object",
        "description": "Why a call was refused; always the first detail of a refusal by a service.",
        "required": ["@type", "reason", "domain"],
        "properties": {
            "@type": detail("ErrorInfo"),
            "reason": {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$", "description": "The stable reason."},
            "domain": {"type": "string", "description": "Who defines the reason: mercato for all services, else `<service>.mercato`."},
            "metadata": {
                "type": "object",
                "description": "Further facts, as the reason says; never an empty one.",
                "additionalProperties": {"type": "string"},
            },
        },
    });
    let violation = json!({"type": "object", "properties": {
        "field": {"type": "string", "description": "Path of the field in JSON names, such as items[0].quantity."},
        "description": {"type": "string", "description": "What is wrong with it."},
        "reason": {"type": "string", "description": "The rule that is broken, such as STRING_MIN_LEN."},
    }});
    let bad = json!({
        "type": "object",
        "description": "Which fields break the rules of the contract; at most 20 are told.",
        "required": ["@type"],
        "properties": {"@type": detail("BadRequest"), "fieldViolations": {"type": "array", "items": violation}},
    });
    let retry = json!({
        "type": "object",
        "description": "When to try again.",
        "required": ["@type"],
        "properties": {"@type": detail("RetryInfo"), "retryDelay": {"type": "string", "pattern": "^[0-9]+([.][0-9]{1,9})?s$"}},
    });
    let other = json!({"type": "object", "required": ["@type"], "properties": {"@type": {"type": "string"}}});
    let named = ["ErrorInfo", "BadRequest", "RetryInfo"].map(|n| json!({"$ref": format!("#/components/schemas/{n}")}));
    let status = json!({
        "type": "object",
        "description": "A refusal.",
        "required": ["code", "message"],
        "properties": {
            "code": {"type": "integer", "format": "int32", "description": "The gRPC code, 3 for INVALID_ARGUMENT and so on."},
            "message": {"type": "string", "description": "What went wrong, in English, for developers."},
            "details": {"type": "array", "items": {"anyOf": [named[0], named[1], named[2], other]}},
        },
    });
    [("ErrorInfo".into(), info), ("BadRequest".into(), bad), ("RetryInfo".into(), retry), ("Status".into(), status)]
}
