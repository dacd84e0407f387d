//! From .proto files to descriptor sets.

use super::Result;
use prost_reflect::{DescriptorPool, DynamicMessage, Value, prost::Message as _};
use std::path::{Path, PathBuf};

/// Packages that are ours; only they need policies and obey the style.
pub const OURS: &str = "mercato.";

/// Contracts of others that the crate offers beside our own.
const FOREIGN: [&str; 4] =
    ["google/rpc/status.proto", "google/rpc/error_details.proto", "google/api/httpbody.proto", "envoy/service/ratelimit/v3/rls.proto"];

/// Where ErrorInfo is declared.
const ERRORS: &str = "google/rpc/error_details.proto";

/// The contracts in the forms that the generators need.
pub struct Compiled {
    /// The encoded set with imports, comments and all options.
    pub raw: Vec<u8>,
    /// The same, resolved.
    pub pool: DescriptorPool,
    /// The same without extensions (prost-types drops them), for prost-build.
    pub typed: prost_types::FileDescriptorSet,
}

/// Every .proto file of ours under `root`, sorted, and the foreign ones.
pub fn files(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("mercato")];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().map_err(|e| format!("{}: {e}", folder.display()))? {
            let path: PathBuf = entry.map_err(|e| format!("{}: {e}", folder.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "proto") {
                let relative = path.strip_prefix(root).map_err(|e| e.to_string())?;
                found.push(relative.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found.extend(FOREIGN.map(String::from));
    Ok(found)
}

/// Compiles `files`, looked for in `roots`.
pub fn compile(roots: &[&Path], files: &[String]) -> Result<Compiled> {
    let mut compiler = protox::Compiler::new(roots).map_err(|e| e.to_string())?;
    compiler.include_imports(true).include_source_info(true);
    // The debug form holds the place in the file and the marked line.
    compiler.open_files(files).map_err(|e| format!("{e:?}"))?;
    // Not `file_descriptor_set()`: it goes through prost-types, which drops every option that is an extension.
    let raw = compiler.encode_file_descriptor_set();
    let pool = DescriptorPool::decode(raw.as_slice()).map_err(|e| e.to_string())?;
    Ok(Compiled { raw, pool, typed: compiler.file_descriptor_set() })
}

/// The set for Envoy's transcoder: no comments, and no message is marked as a map entry.
///
/// Envoy up to 1.40 crashes when a transcoded response holds a map entry whose key or value is the default, because prost (legally)
/// leaves such a field off the wire (protocolbuffers/protobuf#26885). Unmarked, the map is printed as a list of key and value.
/// The one exception is the metadata of google.rpc.ErrorInfo, which every client library reads as an object: the services make errors in
/// one place each, which never writes an empty name or value.
pub fn for_envoy(raw: &[u8]) -> Result<Vec<u8>> {
    rewrite(&without_comments(raw)?, |file| {
        if file.get_field_by_name("name").is_none_or(|name| name.as_str() != Some(ERRORS)) {
            unmark_maps(file, "message_type");
        }
    })
}

/// The set with all options and without comments.
pub fn without_comments(raw: &[u8]) -> Result<Vec<u8>> {
    rewrite(raw, |file| file.clear_field_by_name("source_code_info"))
}

fn rewrite(raw: &[u8], change: impl Fn(&mut DynamicMessage)) -> Result<Vec<u8>> {
    let set = DescriptorPool::global()
        .get_message_by_name("google.protobuf.FileDescriptorSet")
        .ok_or("prost-reflect knows no FileDescriptorSet")?;
    // A dynamic message keeps unknown fields, and with them google.api.http.
    let mut set = DynamicMessage::decode(set, raw).map_err(|e| e.to_string())?;
    if let Some(Value::List(files)) = set.get_field_by_name_mut("file") {
        for file in files {
            if let Value::Message(file) = file {
                change(file);
            }
        }
    }
    Ok(set.encode_to_vec())
}

fn unmark_maps(parent: &mut DynamicMessage, field: &str) {
    if !parent.has_field_by_name(field) {
        return;
    }
    let Some(Value::List(messages)) = parent.get_field_by_name_mut(field) else { return };
    for message in messages {
        let Value::Message(message) = message else { continue };
        if message.has_field_by_name("options")
            && let Some(Value::Message(options)) = message.get_field_by_name_mut("options")
        {
            options.clear_field_by_name("map_entry");
        }
        unmark_maps(message, "nested_type");
    }
}
