//! One route of one method.

use super::{comments::Comment, constraints, errors::Reasons, example, schema::Schemas};
use crate::generate::{
    Result,
    policy::{Binding, Caller, Idempotency, Policy},
    rules::read::FieldRules,
};
use heck::ToLowerCamelCase;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// A method at one of its routes.
pub struct Operation<'a> {
    /// The method.
    pub policy: &'a Policy,
    /// The route.
    pub binding: &'a Binding,
    /// Which route of the method it is; 0 is the first.
    pub nth: usize,
}

/// An operation as the document has it.
pub struct Described {
    /// The path template.
    pub path: String,
    /// The operation object.
    pub body: Json,
}

impl Operation<'_> {
    /// Describes the operation, and asks for the schemas it needs.
    pub fn describe(&self, schemas: &mut Schemas, reasons: &Reasons) -> Result<Described> {
        let method = &self.policy.method;
        let input = method.input();
        let (path, mut bound) = self.path()?;
        let mut parameters = Vec::new();
        for field in &bound {
            parameters.push(parameter(schemas, &field_of(&input, field)?, "path")?);
        }
        let in_path: BTreeSet<String> = bound.iter().cloned().collect();
        if self.binding.body != "*" {
            bound.push(self.binding.body.clone());
            for field in input.fields().filter(|f| !bound.iter().any(|b| b == f.name())) {
                parameters.push(parameter(schemas, &field, "query")?);
            }
        }
        if self.policy.idempotency == Idempotency::Key {
            parameters.push(json!({"$ref": "#/components/parameters/IdempotencyKey"}));
        }
        let comment = Comment::read(&method.parent_file(), method.path())?;
        let mut body = json!({
            "operationId": self.id(),
            "tags": [method.parent_service().name()],
            "summary": comment.summary(),
            "description": self.description(&comment),
            "security": if self.policy.caller == Caller::Public { json!([]) } else { json!([{"bearerAuth": []}]) },
            "responses": self.responses(schemas, reasons)?,
        });
        if !parameters.is_empty() {
            body["parameters"] = parameters.into();
        }
        if !self.binding.body.is_empty() {
            body["requestBody"] = self.request_body(schemas, &in_path)?;
        }
        if let Caller::Roles(roles) = &self.policy.caller {
            body["x-roles"] = json!(roles);
        }
        Ok(Described { path, body })
    }

    fn id(&self) -> String {
        let method = &self.policy.method;
        let nth = if self.nth == 0 { String::new() } else { format!("_{}", self.nth) };
        format!("{}_{}{nth}", method.parent_service().name(), method.name())
    }

    fn description(&self, comment: &Comment) -> String {
        let policy = self.policy;
        let who = match &policy.caller {
            Caller::Public => "Open to anyone.".into(),
            Caller::User => "Needs a signed-in customer.".into(),
            Caller::OwnerField(_) => "Needs the signed-in customer named in the request.".into(),
            Caller::Roles(roles) => format!("Needs one of the roles {}.", roles.join(", ")),
            Caller::Peer => String::new(),
        };
        let also = if policy.or_roles.is_empty() {
            String::new()
        } else {
            format!(" The roles {} reach every customer's.", policy.or_roles.join(", "))
        };
        let method = &policy.method;
        format!("{}\n\n{who}{also} gRPC: `{}/{}`.", comment.text, method.parent_service().full_name(), method.name())
    }

    /// The path with its fields in JSON names, and the names of these fields.
    fn path(&self) -> Result<(String, Vec<String>)> {
        let (mut path, mut fields) = (String::new(), Vec::new());
        let mut rest = self.binding.template.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (variable, after) = after.split_once('}').ok_or_else(|| format!("{}: unbalanced braces", self.binding.template))?;
            let field = variable.split('=').next().unwrap_or(variable);
            path += &format!("{before}{{{}}}", field.to_lower_camel_case());
            fields.push(field.to_owned());
            rest = after;
        }
        Ok((path + rest, fields))
    }

    fn request_body(&self, schemas: &mut Schemas, in_path: &BTreeSet<String>) -> Result<Json> {
        let input = self.policy.method.input();
        if self.binding.body == "*" {
            schemas.leave_out(&input, in_path);
            let schema = schemas.message(&input)?;
            let media = json!({"schema": schema, "example": example::message(&input, in_path)?});
            return Ok(json!({"required": schemas.body_required(&input)?, "content": {"application/json": media}}));
        }
        let field = field_of(&input, &self.binding.body)?;
        let kind = field.kind();
        let message = kind.as_message().ok_or_else(|| format!("{}: the body is not a message", field.full_name()))?;
        let mut body = json!({"required": constraints::required(&field)?});
        let told = Comment::read(&field.parent_file(), field.path())?.text;
        if !told.is_empty() {
            body["description"] = told.into();
        }
        body["content"] = if raw(message) {
            json!({"*/*": {"schema": schemas.message(message)?}})
        } else {
            json!({"application/json": {"schema": schemas.message(message)?, "example": example::message(message, &BTreeSet::new())?}})
        };
        Ok(body)
    }

    fn responses(&self, schemas: &mut Schemas, reasons: &Reasons) -> Result<BTreeMap<String, Json>> {
        let method = &self.policy.method;
        let output = method.output();
        let mut success = json!({"description": success_text(self.policy.http_success, method.is_server_streaming())});
        if self.policy.http_success != 204 {
            let (media, content) = if raw(&output) {
                ("*/*", json!({"schema": schemas.message(&output)?}))
            } else if method.is_server_streaming() {
                // The example of an event stream is text, not JSON.
                ("text/event-stream", json!({"schema": schemas.message(&output)?}))
            } else {
                ("application/json", json!({"schema": schemas.message(&output)?, "example": example::message(&output, &BTreeSet::new())?}))
            };
            success["content"] = Map::from_iter([(media.to_owned(), content)]).into();
        }
        let mut responses = BTreeMap::from([(self.policy.http_success.to_string(), success)]);
        responses.extend(reasons.responses(self.policy)?.into_iter().map(|(status, response)| (status.to_string(), response)));
        Ok(responses)
    }
}

fn success_text(status: u16, stream: bool) -> &'static str {
    match status {
        _ if stream => "Server-sent events; each `data:` line holds one message as JSON.",
        201 => "Created.",
        202 => "Accepted; the rest follows by itself.",
        204 => "Done; there is nothing to say.",
        _ => "Done.",
    }
}

fn raw(message: &MessageDescriptor) -> bool {
    message.full_name() == "google.api.HttpBody"
}

fn field_of(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor> {
    message.get_field_by_name(name).ok_or_else(|| format!("{}: google.api.http names `{name}`, which is no field", message.full_name()))
}

fn parameter(schemas: &mut Schemas, field: &FieldDescriptor, place: &str) -> Result<Json> {
    if matches!(field.kind(), Kind::Message(m) if !m.full_name().starts_with("google.protobuf.")) {
        return Err(format!("{}: a message cannot be a {place} parameter", field.full_name()));
    }
    let mut schema = schemas.field(field)?;
    let told = schema.as_object_mut().and_then(|s| s.remove("description"));
    let mut parameter = json!({"name": field.json_name(), "in": place, "schema": schema});
    if let Some(told) = told {
        parameter["description"] = told;
    }
    if place == "path" || constraints::required(field)? {
        parameter["required"] = true.into();
    }
    if field.is_list() {
        parameter["explode"] = true.into();
        parameter["style"] = "form".into();
    } else if place == "path"
        && let Some(value) = example::one(field, &FieldRules::of(field)?, 1)?
    {
        parameter["example"] = value;
    }
    Ok(parameter)
}
