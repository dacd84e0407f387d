//! Tests of the contracts and of what is generated from them.

#[path = "../../build/mod.rs"]
#[expect(dead_code, reason = "the tests call parts of the build script, not all of it")]
mod generate;

mod breaking;
mod descriptors;
mod doors;
mod openapi;
mod refusals;
mod style;

use prost_reflect::DescriptorPool;

/// The contracts as compiled into the crate.
fn pool() -> DescriptorPool {
    DescriptorPool::decode(mercato_contracts::FILE_DESCRIPTOR_SET).expect("the crate's own descriptor set")
}

/// Compiles one file of package `mercato.t.v1` on top of the real imports.
fn compile(body: &str) -> generate::Result<DescriptorPool> {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let nth = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("mercato-contracts-{}-{nth}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let imports =
        ["buf/validate/validate.proto", "google/api/annotations.proto", "google/protobuf/empty.proto", "mercato/options/v1/method.proto"];
    let imports: String = imports.map(|i| format!("import \"{i}\";\n")).concat();
    std::fs::write(folder.join("t.proto"), format!("syntax = \"proto3\";\npackage mercato.t.v1;\n{imports}{body}"))
        .map_err(|e| e.to_string())?;
    let compiled = generate::descriptors::compile(&[&folder, "proto".as_ref()], &["t.proto".into()]);
    std::fs::remove_dir_all(&folder).map_err(|e| e.to_string())?;
    compiled.map(|c| c.pool)
}

/// Fails with every problem on a line of its own.
#[track_caller]
fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n  {}\n", problems.join("\n  "));
}
