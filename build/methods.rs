//! The method table and the access to owner fields, as Rust.

use super::{
    Result,
    descriptors::OURS,
    policy::{self, Caller, Policy},
    rules::names,
};
use prost_reflect::DescriptorPool;
use std::collections::BTreeMap;

/// `METHODS`, sorted by path, and `Owner` for every message of ours.
pub fn generate(pool: &DescriptorPool) -> Result<String> {
    let policies = policy::all(pool)?;
    let mut code = String::from("/// Every method of the contracts, sorted by path.\npub static METHODS: &[Method] = &[\n");
    for policy in &policies {
        code += &entry(policy);
    }
    code += "];\n";
    code += &owners(pool, &policies)?;
    Ok(code)
}

fn entry(policy: &Policy) -> String {
    let method = &policy.method;
    let caller = match &policy.caller {
        Caller::OwnerField(field) => format!("OwnerField({field:?})"),
        Caller::Roles(roles) => format!("Roles(&{roles:?})"),
        plain => format!("{plain:?}"),
    };
    let http = policy.http.iter().fold(String::new(), |all, b| {
        format!("{all}HttpBinding {{ verb: {:?}, template: {:?}, body: {:?} }}, ", b.verb, b.template, b.body)
    });
    format!(
        "    Method {{ path: {:?}, service: {:?}, name: {:?}, caller: Caller::{caller}, or_roles: &{:?}, idempotency: Idempotency::{:?}, \
         deadline_ms: {}, http: &[{http}], http_success: {}, quota: Quota::{:?}, server_streaming: {}, client_streaming: {} }},\n",
        policy::path(method),
        method.parent_service().full_name(),
        method.name(),
        policy.or_roles,
        policy.idempotency,
        policy.deadline_ms,
        policy.http_success,
        policy.quota,
        method.is_server_streaming(),
        method.is_client_streaming(),
    )
}

fn owners(pool: &DescriptorPool, policies: &[Policy]) -> Result<String> {
    let mut fields = BTreeMap::new();
    for policy in policies {
        if let Caller::OwnerField(field) = &policy.caller {
            let message = policy.method.input().full_name().to_owned();
            if fields.insert(message.clone(), field).is_some_and(|other| other != field) {
                return Err(format!("{message}: two methods name different owner fields"));
            }
        }
    }
    let mut code = String::new();
    let ours = |package: &str| package.starts_with(OURS) && package != "mercato.options.v1";
    for message in pool.all_messages().filter(|m| ours(m.package_name()) && !m.is_map_entry()) {
        let body = match fields.get(message.full_name()) {
            Some(field) => format!("Some(&self.{})", names::field(field)),
            None => "None".into(),
        };
        code += &format!(
            "impl Owner for {} {{\n    fn owner(&self) -> Option<&str> {{\n        {body}\n    }}\n}}\n",
            names::message(&message)
        );
    }
    Ok(code)
}
