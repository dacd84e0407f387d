//! Messages and enums as JSON Schema, in the JSON that Envoy reads and writes.

use super::{comments::Comment, constraints, example};
use crate::generate::{Result, policy::Policy};
use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeMap, BTreeSet};

/// The component schemas found so far.
pub struct Schemas {
    pool: DescriptorPool,
    /// Messages that a request is or holds.
    asked: BTreeSet<String>,
    /// Short names that more than one package has.
    ambiguous: BTreeSet<String>,
    done: BTreeMap<String, Json>,
    todo: Vec<(String, MessageDescriptor)>,
    /// Fields of request messages that stand in the path and not in the body.
    in_path: BTreeMap<String, BTreeSet<String>>,
}

impl Schemas {
    /// Starts without a schema.
    pub fn new(pool: &DescriptorPool, policies: &[Policy]) -> Self {
        let mut asked = BTreeSet::new();
        for policy in policies {
            reach(&policy.method.input(), &mut asked);
        }
        let mut seen = BTreeSet::new();
        let names = pool.all_messages().map(|m| local(m.full_name(), m.package_name()));
        let enums = pool.all_enums().map(|e| local(e.full_name(), e.package_name()));
        let ambiguous = names.chain(enums).filter(|name| !seen.insert(name.clone())).collect();
        Self { pool: pool.clone(), asked, ambiguous, done: BTreeMap::new(), todo: Vec::new(), in_path: BTreeMap::new() }
    }

    /// Says that a request message's body goes without these fields.
    pub fn leave_out(&mut self, message: &MessageDescriptor, fields: &BTreeSet<String>) {
        self.in_path.entry(message.full_name().to_owned()).or_default().extend(fields.iter().cloned());
    }

    /// All schemas asked for, and those they need.
    pub fn finish(mut self) -> Result<BTreeMap<String, Json>> {
        while let Some((name, message)) = self.todo.pop() {
            let schema = self.object(&message)?;
            self.done.insert(name, schema);
        }
        Ok(self.done)
    }

    /// A message: a reference, or what ProtoJSON makes of a well-known type.
    pub fn message(&mut self, message: &MessageDescriptor) -> Result<Json> {
        Ok(match message.full_name() {
            "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
            "google.protobuf.Duration" => json!({"type": "string", "pattern": "^-?[0-9]+([.][0-9]{1,9})?s$"}),
            "google.protobuf.FieldMask" => json!({"type": "string"}),
            "google.protobuf.Empty" => json!({"type": "object"}),
            "google.api.HttpBody" => json!({"type": "string", "format": "binary"}),
            other if other.starts_with("google.protobuf.") => {
                return Err(format!("{other}: the OpenAPI generator does not know this type"));
            }
            _ => {
                let name = self.name(message.full_name(), message.package_name());
                if !self.done.contains_key(&name) {
                    self.done.insert(name.clone(), Json::Null);
                    self.todo.push((name.clone(), message.clone()));
                }
                json!({"$ref": format!("#/components/schemas/{name}")})
            }
        })
    }

    /// A field with its comment and its rules.
    pub fn field(&mut self, field: &FieldDescriptor) -> Result<Json> {
        let kind = field.kind();
        let mut schema = if let (true, Kind::Message(entry)) = (field.is_map(), &kind) {
            json!({"type": "object", "additionalProperties": self.value(&entry.map_entry_value_field().kind())?})
        } else if field.is_list() {
            json!({"type": "array", "items": self.value(&kind)?})
        } else {
            self.value(&kind)?
        };
        let comment = Comment::read(&field.parent_file(), field.path())?;
        if !comment.text.is_empty() {
            schema["description"] = comment.text.into();
        }
        // A request may hold a 64-bit integer as a number, too; an answer never does.
        if self.asked.contains(field.parent_message().full_name()) && schema["format"] == "int64" {
            schema["type"] = json!(["string", "integer"]);
        }
        if self.output_only(field) {
            schema["readOnly"] = true.into();
        }
        constraints::add(&mut schema, field)?;
        Ok(schema)
    }

    fn value(&mut self, kind: &Kind) -> Result<Json> {
        Ok(match kind {
            Kind::Double => json!({"type": "number", "format": "double"}),
            Kind::Float => json!({"type": "number", "format": "float"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"}),
            Kind::Uint64 | Kind::Fixed64 => json!({"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Enum(kind) => self.enumeration(kind)?,
            Kind::Message(message) => self.message(message)?,
        })
    }

    fn enumeration(&mut self, kind: &EnumDescriptor) -> Result<Json> {
        let name = self.name(kind.full_name(), kind.package_name());
        if !self.done.contains_key(&name) {
            let mut description = Comment::read(&kind.parent_file(), kind.path())?.text;
            for value in kind.values() {
                let told = Comment::read(&kind.parent_file(), value.path())?.text;
                description += &format!("\n- `{}`: {told}", value.name());
            }
            let values: Vec<String> = kind.values().map(|v| v.name().to_owned()).collect();
            self.done.insert(name.clone(), json!({"type": "string", "description": description, "enum": values}));
        }
        Ok(json!({"$ref": format!("#/components/schemas/{name}")}))
    }

    fn object(&mut self, message: &MessageDescriptor) -> Result<Json> {
        let left_out = self.in_path.get(message.full_name()).cloned().unwrap_or_default();
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for field in message.fields().filter(|f| !left_out.contains(f.name())) {
            properties.insert(field.json_name().to_owned(), self.field(&field)?);
            if constraints::required(&field)? {
                required.push(field.json_name().to_owned());
            }
        }
        let mut schema = json!({"type": "object", "properties": properties});
        let comment = Comment::read(&message.parent_file(), message.path())?;
        if !comment.text.is_empty() {
            schema["description"] = comment.text.into();
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if let Some(oneof) = message.oneofs().find(|o| !o.is_synthetic()) {
            let members = oneof.fields().map(|f| json!({"required": [f.json_name()]}));
            schema["oneOf"] = members.collect::<Vec<_>>().into();
        }
        schema["examples"] = json!([example::message(message, &left_out)?]);
        Ok(schema)
    }

    fn output_only(&self, field: &FieldDescriptor) -> bool {
        const OUTPUT_ONLY: i32 = 3;
        let Some(extension) = self.pool.get_extension_by_name("google.api.field_behavior") else { return false };
        let options = field.options();
        let behaviours = options.get_extension(&extension);
        behaviours.as_list().unwrap_or_default().contains(&Value::EnumNumber(OUTPUT_ONLY))
    }

    /// The short name, or with the service before it where two packages have the same.
    fn name(&self, full_name: &str, package: &str) -> String {
        let short = local(full_name, package);
        if !self.ambiguous.contains(&short) {
            return short;
        }
        let service = package.strip_prefix(super::OURS).unwrap_or(package);
        format!("{}.{short}", service.split('.').next().unwrap_or(service))
    }

    /// Whether the body of a request must be there at all.
    pub fn body_required(&self, message: &MessageDescriptor) -> Result<bool> {
        let left_out = self.in_path.get(message.full_name()).cloned().unwrap_or_default();
        for field in message.fields().filter(|f| !left_out.contains(f.name())) {
            if constraints::required(&field)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The messages that a message holds, itself among them.
fn reach(message: &MessageDescriptor, found: &mut BTreeSet<String>) {
    if found.insert(message.full_name().to_owned()) {
        for inner in message.fields().filter_map(|f| f.kind().as_message().cloned()) {
            reach(&inner, found);
        }
    }
}

fn local(full_name: &str, package: &str) -> String {
    full_name.strip_prefix(package).unwrap_or(full_name).trim_start_matches('.').to_owned()
}
