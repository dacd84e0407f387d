//! Reads what a method promises and demands: `(mercato.options.v1.method)` and `google.api.http`.

use super::{Result, descriptors::OURS};
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, MethodDescriptor, Value};

/// The deadline of a method that names none.
const DEFAULT_DEADLINE_MS: u64 = 2_000;

/// Who may call.
#[derive(Debug, Clone, PartialEq)]
pub enum Caller {
    /// Anyone.
    Public,
    /// Any signed-in subject.
    User,
    /// The subject named in this request field.
    OwnerField(String),
    /// A holder of one of these roles.
    Roles(Vec<String>),
    /// Other services.
    Peer,
}

/// How a method behaves when it is repeated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Idempotency {
    /// Changes nothing.
    ReadOnly,
    /// Demands a key.
    Key,
    /// Harmless by its nature.
    Natural,
}

/// Whose changes are counted together at the edge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Quota {
    /// Those of a subject.
    Subject,
    /// Those of an address.
    Address,
    /// Those of an address, tightly.
    SignIn,
    /// Nobody's.
    Signed,
}

/// One REST route of a method.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// GET, PUT, POST, DELETE or PATCH.
    pub verb: &'static str,
    /// The path with its `{field}` parts.
    pub template: String,
    /// The body field, `*`, or nothing.
    pub body: String,
    /// The response field that is the body, or nothing.
    pub response_body: String,
}

/// A method and all its options say.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The method.
    pub method: MethodDescriptor,
    /// Who may call.
    pub caller: Caller,
    /// Roles that pass beside the owner.
    pub or_roles: Vec<String>,
    /// What repeating it does.
    pub idempotency: Idempotency,
    /// The longest a call may take.
    pub deadline_ms: u64,
    /// Its REST routes.
    pub http: Vec<Binding>,
    /// The HTTP status of a success.
    pub http_success: u16,
    /// Whose changes it is counted with.
    pub quota: Quota,
}

/// The policies of all methods of ours, sorted by service and name.
pub fn all(pool: &DescriptorPool) -> Result<Vec<Policy>> {
    let mut policies = Vec::new();
    for service in pool.services().filter(|s| s.package_name().starts_with(OURS)) {
        for method in service.methods() {
            policies.push(read(pool, &method)?);
        }
    }
    policies.sort_by_key(|p| path(&p.method));
    Ok(policies)
}

/// The path a method is called by, `/mercato.ordering.v1.OrderService/PlaceOrder`.
pub fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// The policy of one method; refuses what is missing or contradicts itself.
pub fn read(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<Policy> {
    let name = method.full_name();
    let options = method.options();
    let policy = extension(pool, &options, "mercato.options.v1.method")
        .ok_or_else(|| format!("{name}: no (mercato.options.v1.method) option; every RPC states who may call it"))?;
    let caller = caller(&policy).ok_or_else(|| format!("{name}: (mercato.options.v1.method) names no caller"))?;
    if let Caller::OwnerField(field) = &caller {
        owner_field(method, field)?;
    }
    if caller == Caller::Roles(vec![]) {
        return Err(format!("{name}: `roles` without a role lets nobody in"));
    }
    let or_roles = texts(&policy, "or_roles");
    if !or_roles.is_empty() && !matches!(caller, Caller::User | Caller::OwnerField(_)) {
        return Err(format!("{name}: `or_roles` means something only beside `user` or `owner_field`"));
    }
    let idempotency = match number(&policy, "idempotency") {
        1 => Idempotency::ReadOnly,
        2 => Idempotency::Key,
        3 => Idempotency::Natural,
        _ => return Err(format!("{name}: (mercato.options.v1.method) states no idempotency")),
    };
    let http = bindings(pool, method)?;
    if caller == Caller::Peer && !http.is_empty() {
        return Err(format!("{name}: a peer method must not have google.api.http"));
    }
    let http_success = match number(&policy, "http_success") {
        0 | 200 => 200,
        status @ (201 | 202 | 204) => status as u16,
        status => return Err(format!("{name}: http_success {status} is not 200, 201, 202 or 204")),
    };
    let deadline_ms = deadline_ms(&policy, name)?;
    let quota = quota(&policy, &caller, idempotency, name)?;
    Ok(Policy { method: method.clone(), caller, or_roles, idempotency, deadline_ms, http, http_success, quota })
}

/// An option that is an extension, if it is set.
pub fn extension(pool: &DescriptorPool, options: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    let extension = pool.get_extension_by_name(name)?;
    options.has_extension(&extension).then(|| options.get_extension(&extension).as_message().cloned())?
}

/// A text field of an option.
pub fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

fn texts(message: &DynamicMessage, field: &str) -> Vec<String> {
    let list = message.get_field_by_name(field);
    let items = list.as_ref().and_then(|v| v.as_list()).unwrap_or_default();
    items.iter().filter_map(|v| v.as_str().map(String::from)).collect()
}

fn number(message: &DynamicMessage, field: &str) -> i64 {
    match message.get_field_by_name(field).as_deref() {
        Some(Value::I32(n) | Value::EnumNumber(n)) => i64::from(*n),
        Some(Value::I64(n)) => *n,
        _ => 0,
    }
}

fn caller(policy: &DynamicMessage) -> Option<Caller> {
    let said = |field: &str| policy.get_field_by_name(field).and_then(|v| v.as_bool()).unwrap_or_default();
    if policy.has_field_by_name("owner_field") {
        return Some(Caller::OwnerField(text(policy, "owner_field")));
    }
    if policy.has_field_by_name("roles") {
        let roles = policy.get_field_by_name("roles")?;
        return Some(Caller::Roles(texts(roles.as_message()?, "any_of")));
    }
    [("public", Caller::Public), ("user", Caller::User), ("peer", Caller::Peer)].into_iter().find(|(field, _)| said(field)).map(|(_, c)| c)
}

fn quota(policy: &DynamicMessage, caller: &Caller, idempotency: Idempotency, name: &str) -> Result<Quota> {
    let public = *caller == Caller::Public;
    match number(policy, "quota") {
        0 if public => Ok(Quota::Address),
        0 => Ok(Quota::Subject),
        _ if !public || idempotency == Idempotency::ReadOnly => Err(format!("{name}: `quota` means something only for public changes")),
        1 => Ok(Quota::SignIn),
        2 => Ok(Quota::Signed),
        other => Err(format!("{name}: unknown quota {other}")),
    }
}

fn owner_field(method: &MethodDescriptor, field: &str) -> Result<()> {
    let found = method.input().get_field_by_name(field);
    match found {
        Some(f) if f.kind() == Kind::String && !f.is_list() && !f.supports_presence() => Ok(()),
        _ => Err(format!("{}: owner_field `{field}` is not a plain string field of {}", method.full_name(), method.input().full_name())),
    }
}

fn deadline_ms(policy: &DynamicMessage, name: &str) -> Result<u64> {
    if !policy.has_field_by_name("deadline") {
        return Ok(DEFAULT_DEADLINE_MS);
    }
    let deadline = policy.get_field_by_name("deadline");
    let deadline = deadline.as_ref().and_then(|v| v.as_message()).ok_or_else(|| format!("{name}: unreadable deadline"))?;
    let ms = number(deadline, "seconds") * 1_000 + number(deadline, "nanos") / 1_000_000;
    u64::try_from(ms).ok().filter(|ms| *ms > 0).ok_or_else(|| format!("{name}: the deadline must be at least 1 ms"))
}

/// The REST routes of a method, in the order they are written.
pub fn bindings(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<Vec<Binding>> {
    let mut found = Vec::new();
    if let Some(rule) = extension(pool, &method.options(), "google.api.http") {
        collect(&rule, method.full_name(), &mut found)?;
    }
    Ok(found)
}

fn collect(rule: &DynamicMessage, of: &str, found: &mut Vec<Binding>) -> Result<()> {
    let verbs = [("get", "GET"), ("put", "PUT"), ("post", "POST"), ("delete", "DELETE"), ("patch", "PATCH")];
    let (field, verb) =
        verbs.into_iter().find(|(f, _)| rule.has_field_by_name(f)).ok_or_else(|| format!("{of}: google.api.http without a known verb"))?;
    found.push(Binding { verb, template: text(rule, field), body: text(rule, "body"), response_body: text(rule, "response_body") });
    let more = rule.get_field_by_name("additional_bindings");
    for binding in more.as_ref().and_then(|v| v.as_list()).unwrap_or_default() {
        collect(binding.as_message().ok_or_else(|| format!("{of}: unreadable binding"))?, of, found)?;
    }
    Ok(())
}
