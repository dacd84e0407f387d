//! Compiles proto/ into everything that follows from the contracts: Rust types, servers, clients, field checks, the method table, the
//! descriptor sets and the OpenAPI document. A method without a policy or a field rule that nobody enforces stops the build.

#[path = "build/mod.rs"]
mod generate;

use std::{env, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    for watched in ["build.rs", "build", "proto/mercato", "proto/google", "proto/buf", "proto/envoy"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    match generate::all("proto".as_ref(), &out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
