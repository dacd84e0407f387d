//! What clients of version 1 rely on stays as it is: the wire, the JSON, the routes and who may call.
//!
//! The baseline is the last released contract. A change that breaks nobody needs nothing; a new release is made the baseline with
//! `MERCATO_UPDATE_BASELINE=1 cargo test -p mercato-contracts`.

use crate::{
    compile,
    generate::{descriptors, descriptors::OURS, policy},
    none, pool,
};
use mercato_contracts::FILE_DESCRIPTOR_SET;
use prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind, MethodDescriptor};
use std::{fs, path::Path};

const BASELINE: &str = "proto/baseline/v1.binpb";

#[test]
fn nothing_that_clients_rely_on_changed() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(BASELINE);
    if std::env::var_os("MERCATO_UPDATE_BASELINE").is_some() {
        fs::create_dir_all(file.parent().expect("a folder")).expect("a writable tree");
        fs::write(&file, without_comments(FILE_DESCRIPTOR_SET)).expect("a writable tree");
    }
    let baseline = fs::read(&file).unwrap_or_else(|e| panic!("{BASELINE}: {e}; write it with MERCATO_UPDATE_BASELINE=1"));
    none(broken(&DescriptorPool::decode(baseline.as_slice()).expect("a descriptor set"), &pool()));
}

/// The set as it is, without comments, which would make every typo a change of the baseline.
fn without_comments(raw: &[u8]) -> Vec<u8> {
    descriptors::without_comments(raw).expect("our own descriptor set")
}

/// What in `new` breaks clients of `old`.
fn broken(old: &DescriptorPool, new: &DescriptorPool) -> Vec<String> {
    let mut found = Vec::new();
    types_broken(&mut found, old, new, |package| package.starts_with(OURS));
    for method in old.services().filter(|s| s.package_name().starts_with(OURS)).flat_map(|s| s.methods().collect::<Vec<_>>()) {
        let service = new.get_service_by_name(method.parent_service().full_name());
        match service.and_then(|s| s.methods().find(|m| m.name() == method.name())) {
            None => found.push(format!("{}: removed", method.full_name())),
            Some(now) => method_broken(&mut found, (old, &method), (new, &now)),
        }
    }
    found
}

/// Messages and enums of some packages.
fn types_broken(found: &mut Vec<String>, old: &DescriptorPool, new: &DescriptorPool, of: impl Fn(&str) -> bool) {
    for message in old.all_messages().filter(|m| of(m.package_name())) {
        let Some(now) = new.get_message_by_name(message.full_name()) else {
            found.push(format!("{}: removed", message.full_name()));
            continue;
        };
        for field in message.fields() {
            match now.get_field(field.number()) {
                None => found.push(format!("{} = {}: removed", field.full_name(), field.number())),
                Some(now) => compare(found, field.full_name(), &shape(&field), &shape(&now)),
            }
        }
    }
    for kind in old.all_enums().filter(|e| of(e.package_name())) {
        for value in kind.values() {
            let now = new.get_enum_by_name(kind.full_name()).and_then(|e| e.get_value(value.number()));
            let now = now.map_or("removed".into(), |v| v.name().to_owned());
            compare(found, &format!("{} = {}", value.full_name(), value.number()), &[("name", value.name().to_owned())], &[("name", now)]);
        }
    }
}

fn compare(found: &mut Vec<String>, name: &str, old: &[(&str, String)], new: &[(&str, String)]) {
    for ((what, old), (_, new)) in old.iter().zip(new).filter(|(old, new)| old != new) {
        found.push(format!("{name}: {what} was {old}, is {new}"));
    }
}

/// What wire and JSON know of a field.
fn shape(field: &FieldDescriptor) -> [(&'static str, String); 5] {
    let kind = match field.kind() {
        Kind::Message(m) => m.full_name().to_owned(),
        Kind::Enum(e) => e.full_name().to_owned(),
        scalar => format!("{scalar:?}"),
    };
    let list = if field.cardinality() == Cardinality::Repeated { "many" } else { "one" };
    let oneof = field.containing_oneof().map_or("none".into(), |o| if o.is_synthetic() { "optional".into() } else { o.name().to_owned() });
    [
        ("name", field.name().into()),
        ("JSON name", field.json_name().into()),
        ("type", kind),
        ("number of values", list.into()),
        ("presence", oneof),
    ]
}

fn method_broken(
    found: &mut Vec<String>,
    (old_pool, old): (&DescriptorPool, &MethodDescriptor),
    (new_pool, new): (&DescriptorPool, &MethodDescriptor),
) {
    let signature = |m: &MethodDescriptor| {
        let side = |stream: bool, name: &str| format!("{}{name}", if stream { "stream of " } else { "" });
        [
            ("request", side(m.is_client_streaming(), m.input().full_name())),
            ("answer", side(m.is_server_streaming(), m.output().full_name())),
        ]
    };
    compare(found, old.full_name(), &signature(old), &signature(new));
    let (was, is) = match (policy::read(old_pool, old), policy::read(new_pool, new)) {
        (Ok(was), Ok(is)) => (was, is),
        (was, is) => {
            found.extend(was.err().into_iter().chain(is.err()));
            return;
        }
    };
    for binding in was.http.iter().filter(|b| !is.http.contains(b)) {
        found.push(format!("{}: route {} {} (body `{}`) is gone", old.full_name(), binding.verb, binding.template, binding.body));
    }
    // Who may call neither grows, which would open a door, nor shrinks, which would shut callers out.
    let promises = |p: &policy::Policy| {
        let mut or_roles = p.or_roles.clone();
        or_roles.sort();
        [
            ("caller", format!("{:?}", p.caller)),
            ("or_roles", format!("{or_roles:?}")),
            ("idempotency", format!("{:?}", p.idempotency)),
            ("http_success", p.http_success.to_string()),
        ]
    };
    compare(found, old.full_name(), &promises(&was), &promises(&is));
}

const OLD: &str = r#"
service S {
  rpc Get(GetRequest) returns (M) {
    option (google.api.http) = {get: "/m/{id}"};
    option (mercato.options.v1.method) = {user: true, or_roles: ["admin"], idempotency: IDEMPOTENCY_READ_ONLY};
  }
}
message GetRequest { string id = 1; }
message M { string some_name = 1; int32 count = 2; repeated string tags = 3; oneof o { string left = 4; string right = 5; } Kind kind = 6; }
enum Kind { KIND_UNSPECIFIED = 0; KIND_ONE = 1; KIND_TWO = 2; }
"#;

#[test]
fn each_kind_of_break_is_found() {
    let old = compile(OLD).expect("the old contract");
    for (from, to, told) in [
        ("int32 count = 2;", "", "mercato.t.v1.M.count = 2: removed"),
        ("int32 count = 2;", "int32 count = 7;", "mercato.t.v1.M.count = 2: removed"),
        ("int32 count", "int64 count", "mercato.t.v1.M.count: type was int32, is int64"),
        ("int32 count", "optional int32 count", "mercato.t.v1.M.count: presence was none, is optional"),
        ("int32 count", "repeated int32 count", "mercato.t.v1.M.count: number of values was one, is many"),
        ("string some_name = 1", "string other_name = 1", "mercato.t.v1.M.some_name: JSON name was someName, is otherName"),
        ("string some_name = 1", "string some_name = 1 [json_name = \"x\"]", "mercato.t.v1.M.some_name: JSON name was someName, is x"),
        ("string right = 5; }", "} string right = 5;", "mercato.t.v1.M.right: presence was o, is none"),
        ("KIND_TWO = 2;", "", "name was KIND_TWO, is removed"),
        ("KIND_TWO = 2;", "KIND_DUO = 2;", "name was KIND_TWO, is KIND_DUO"),
        ("rpc Get(", "rpc Fetch(", "mercato.t.v1.S.Get: removed"),
        ("returns (M)", "returns (stream M)", "answer was mercato.t.v1.M, is stream of mercato.t.v1.M"),
        ("/m/{id}", "/n/{id}", "route GET /m/{id} (body ``) is gone"),
        ("user: true, or_roles: [\"admin\"]", "public: true", "mercato.t.v1.S.Get: caller was User, is Public"),
        ("or_roles: [\"admin\"]", "or_roles: [\"admin\", \"support\"]", "or_roles was [\"admin\"], is [\"admin\", \"support\"]"),
        ("IDEMPOTENCY_READ_ONLY", "IDEMPOTENCY_KEY", "idempotency was ReadOnly, is Key"),
    ] {
        let new = OLD.replace(from, to);
        assert_ne!(new, OLD, "{from}");
        let found = broken(&old, &compile(&new).unwrap_or_else(|e| panic!("{to}: {e}")));
        assert!(found.iter().any(|f| f.contains(told)), "{from} -> {to}: {found:?}");
    }
}

#[test]
fn additions_break_nobody() {
    let new = OLD.replace("Kind kind = 6;", "Kind kind = 6; string more = 7;").replace("KIND_TWO = 2;", "KIND_TWO = 2; KIND_THREE = 3;")
        + "message New {}";
    assert_eq!(broken(&compile(OLD).expect("old"), &compile(&new).expect("new")), [""; 0]);
}

/// What we declare of contracts of others has the names, numbers and types of the originals. `MERCATO_PROTO_ORIGINALS` lists folders that
/// hold them, divided by colons, such as the `proto` folders in the sources of the crates `prost-protovalidate-types` and `envoy-types`.
#[test]
fn the_contracts_of_others_are_as_in_the_originals() {
    let folders = std::env::var("MERCATO_PROTO_ORIGINALS").unwrap_or_default();
    let roots: Vec<&Path> = folders.split(':').filter(|f| !f.is_empty()).map(Path::new).collect();
    if roots.is_empty() {
        eprintln!("NOT RUN: set MERCATO_PROTO_ORIGINALS to folders with the original .proto files");
        return;
    }
    let (mut found, mut compared) = (Vec::new(), 0);
    for file in pool().files().filter(|f| ["google/api/", "google/rpc/", "buf/", "envoy/"].iter().any(|p| f.name().starts_with(p))) {
        if roots.iter().any(|root| root.join(file.name()).exists()) {
            let original = descriptors::compile(&roots, &[file.name().to_owned()]).unwrap_or_else(|e| panic!("{e}")).pool;
            let ours = descriptors::compile(&["proto".as_ref()], &[file.name().to_owned()]).expect("our own contracts").pool;
            types_broken(&mut found, &ours, &original, |package| package == file.package_name());
            for extension in ours.all_extensions().filter(|e| e.parent_file().name() == file.name()) {
                let theirs = original.get_extension_by_name(extension.full_name()).map(|e| e.number());
                assert_eq!(theirs, Some(extension.number()), "{}", extension.full_name());
            }
            compared += 1;
        }
    }
    assert!(compared > 0, "no original found in {folders}");
    eprintln!("{compared} files compared with their originals");
    none(found);
}
