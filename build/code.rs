//! Rust types, servers and clients.

use super::Result;
use std::path::Path;

/// Files that only the generators read.
const NOT_GENERATED: [&str; 5] =
    ["google/api/annotations.proto", "google/api/http.proto", "google/api/field_behavior.proto", "buf/validate/", "mercato/options/"];

/// Writes one file a package, and `packages.rs`, which includes them all as a tree of modules.
pub fn generate(mut files: prost_types::FileDescriptorSet, out: &Path) -> Result<()> {
    files.file.retain(|file| !NOT_GENERATED.iter().any(|prefix| file.name().starts_with(prefix)));
    let mut config = prost_build::Config::new();
    config
        .out_dir(out)
        .include_file("packages.rs")
        .btree_map(["."])
        .bytes([".google.api.HttpBody.data"])
        .service_generator(Box::new(Services::new()));
    config.compile_fds(files).map_err(|e| e.to_string())
}

/// The server decodes with the checking codec, the client with the plain one: a client must tolerate what a newer server answers.
struct Services {
    client: Box<dyn prost_build::ServiceGenerator>,
    server: Box<dyn prost_build::ServiceGenerator>,
}

impl Services {
    fn new() -> Self {
        let client = tonic_prost_build::configure().build_server(false).service_generator();
        let server = tonic_prost_build::configure().build_client(false).codec_path("crate::codec::Checked").service_generator();
        Self { client, server }
    }
}

impl prost_build::ServiceGenerator for Services {
    fn generate(&mut self, service: prost_build::Service, buf: &mut String) {
        self.client.generate(service.clone(), buf);
        self.server.generate(service, buf);
    }

    fn finalize(&mut self, buf: &mut String) {
        self.client.finalize(buf);
        self.server.finalize(buf);
    }

    fn finalize_package(&mut self, package: &str, buf: &mut String) {
        self.client.finalize_package(package, buf);
        self.server.finalize_package(package, buf);
    }
}
