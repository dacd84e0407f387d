//! What build.rs does, as a module, so that tests can call its parts.

pub mod code;
pub mod descriptors;
pub mod methods;
pub mod openapi;
pub mod policy;
pub mod rules;

use std::{fs, path::Path};

/// An error that names the element at fault; it ends the build.
pub type Result<T> = std::result::Result<T, String>;

/// Reads the contracts under `root` and writes all that is generated to `out`.
pub fn all(root: &Path, out: &Path) -> Result<()> {
    let files = descriptors::files(root)?;
    let compiled = descriptors::compile(&[root], &files)?;
    write(out, "mercato.bin", &compiled.raw)?;
    write(out, "envoy.bin", &descriptors::for_envoy(&compiled.raw)?)?;
    write(out, "rules.rs", rules::generate(&compiled.pool)?.as_bytes())?;
    write(out, "methods.rs", methods::generate(&compiled.pool)?.as_bytes())?;
    write(out, "openapi.json", openapi::generate(&compiled.pool)?.as_bytes())?;
    code::generate(compiled.typed, out)
}

fn write(out: &Path, name: &str, content: &[u8]) -> Result<()> {
    fs::write(out.join(name), content).map_err(|e| format!("{name}: {e}"))
}
