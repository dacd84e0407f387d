//! Envoy's configuration, rendered from the template `envoy/envoy.yaml` and the contracts. Every route, deadline, retry and token demand
//! follows from a method's policy, so the edge cannot disagree with the services.

mod clusters;
mod replies;
mod routes;

use mercato_contracts::ENVOY_DESCRIPTOR_SET;
use mercato_contracts::methods::{Caller, METHODS};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const TEMPLATE: &str = include_str!("../../../envoy/envoy.yaml");

/// What the rendered configuration depends on. Everything has a default that fits one machine.
#[derive(Debug, Clone)]
pub struct EdgeSettings {
    /// Name of this Envoy in logs and metrics.
    pub node: String,
    /// Where clients come in.
    pub listen: SocketAddr,
    /// Envoy's own admin interface; never reachable from outside.
    pub admin: SocketAddr,
    /// Where Envoy's metrics and readiness are shown and nothing else of its admin interface; none shows them nowhere.
    pub stats: Option<SocketAddr>,
    /// Where the services are: one address for all, or one a role.
    pub upstream: Upstream,
    /// The gateway's HTTP face: keys, OpenAPI, documentation.
    pub gateway_http: String,
    /// Issuer of the tokens.
    pub issuer: String,
    /// Audience of the tokens.
    pub audience: String,
    /// How long the published keys are believed, in seconds; a withdrawn key is refused within that time.
    pub keys_seconds: u32,
    /// Proxies in front of this one whose word about the client's address counts.
    pub trusted_hops: u32,
    /// Memory at which Envoy defends itself, in bytes.
    pub max_heap_bytes: u64,
    /// Connections of clients at once, and calls under way to one role: what both may be before Envoy refuses more. A watch stream over
    /// REST is a connection, over gRPC a call.
    pub max_connections: u32,
    /// Where the access log goes: `stdout` or a file.
    pub access_log: String,
    /// Origins of browsers that may call; regular expressions.
    pub cors_origins: Vec<String>,
    /// Collector for traces as `host:port`; none switches tracing off.
    pub otlp: Option<String>,
    /// How many of a hundred requests are traced.
    pub trace_percent: f64,
}

/// How many open streams fit the heap before Envoy starts to give memory back, so that the limit on their number holds before the one on
/// memory does: 100 MiB are Envoy's own, and a stream takes 35 to 42 KB (`bench/RESULTS.md`), which leaves a third for what lies in buffers.
#[must_use]
pub fn connections_within(max_heap_bytes: u64) -> u32 {
    const OWN: u64 = 100 << 20;
    const STREAM: u64 = 60 << 10;
    let room = (max_heap_bytes / 10 * 9).saturating_sub(OWN);
    u32::try_from(room / STREAM).unwrap_or(u32::MAX).clamp(100, 1_000_000)
}

/// Where the services are.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// Every role in one process, as `host:port`.
    Together(String),
    /// A process a role, each as `host:port`; `internal` is where one more listener offers all of them to peers, tools and reflection.
    Apart {
        /// Role and address.
        roles: Vec<(String, String)>,
        /// The listener for tools on the inside.
        internal: SocketAddr,
    },
}

impl Upstream {
    /// The cluster that serves a package such as `mercato.ordering.v1`.
    fn cluster(&self, service: &str) -> String {
        match self {
            Self::Together(_) => "mercato".into(),
            Self::Apart { .. } => service.split('.').nth(1).unwrap_or("gateway").to_owned(),
        }
    }

    fn gateway(&self) -> String {
        match self {
            Self::Together(_) => "mercato".into(),
            Self::Apart { .. } => "gateway".into(),
        }
    }
}

/// Why a configuration could not be written.
#[derive(Debug, thiserror::Error)]
#[error("`{path}` cannot be written: {source}")]
pub struct WriteError {
    path: PathBuf,
    source: std::io::Error,
}

/// Writes `envoy.yaml` and the descriptor it names into a folder.
pub fn write(settings: &EdgeSettings, folder: &Path) -> Result<(), WriteError> {
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|source| WriteError { path, source })
    };
    std::fs::create_dir_all(folder).map_err(|source| WriteError { path: folder.to_owned(), source })?;
    let absolute = std::fs::canonicalize(folder).map_err(|source| WriteError { path: folder.to_owned(), source })?;
    let descriptor = absolute.join("envoy.bin");
    put("envoy.bin", ENVOY_DESCRIPTOR_SET)?;
    put("envoy.yaml", render(settings, &descriptor).as_bytes())
}

/// The configuration as text; `descriptor` is where Envoy will find its descriptor set.
pub fn render(settings: &EdgeSettings, descriptor: &Path) -> String {
    let transcoder = transcoder(descriptor, false);
    let fields: Vec<(&str, String)> = vec![
        ("NODE", json!(settings.node).to_string()),
        ("ADMIN_HOST", json!(settings.admin.ip().to_string()).to_string()),
        ("ADMIN_PORT", settings.admin.port().to_string()),
        ("MAX_HEAP_BYTES", settings.max_heap_bytes.to_string()),
        ("MAX_CONNECTIONS", settings.max_connections.to_string()),
        ("EDGE_HOST", json!(settings.listen.ip().to_string()).to_string()),
        ("EDGE_PORT", settings.listen.port().to_string()),
        ("TRUSTED_HOPS", settings.trusted_hops.to_string()),
        ("TRACING", replies::tracing(settings)),
        ("ACCESS_LOG_TYPE", format!("type.googleapis.com/envoy.extensions.access_loggers.{}", access_logger(settings).0)),
        ("ACCESS_LOG_PATH", access_logger(settings).1),
        ("LOCAL_REPLIES", replies::mappers().to_string()),
        ("HEALTHY", clusters::healthy(&settings.upstream).to_string()),
        ("ISSUER", json!(settings.issuer).to_string()),
        ("AUDIENCE", json!(settings.audience).to_string()),
        ("KEYS_SECONDS", settings.keys_seconds.to_string()),
        ("RLS_CLUSTER", settings.upstream.gateway()),
        ("TRANSCODER", transcoder.to_string()),
        ("CORS_ORIGINS", cors(&settings.cors_origins).to_string()),
        ("ROUTES", lines(routes::all(settings, descriptor), 14)),
        ("INTERNAL_LISTENER", clusters::internal_listeners(settings)),
        ("CLUSTERS", lines(clusters::all(settings), 2)),
    ];
    fields.iter().fold(TEMPLATE.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
}

/// A list with one element a line: JSON is YAML, and a line is what a person can compare.
fn lines(values: Vec<Value>, indent: usize) -> String {
    let pad = " ".repeat(indent);
    values.iter().map(|v| format!("\n{pad}- {v}")).collect()
}

/// The logger's type and the line with its path. Standard output has a type of its own: opened as a file it is refused to a process that
/// did not open it itself.
fn access_logger(settings: &EdgeSettings) -> (&'static str, String) {
    match settings.access_log.as_str() {
        "stdout" => ("stream.v3.StdoutAccessLog", String::new()),
        path => ("file.v3.FileAccessLog", format!("              path: {}", json!(path))),
    }
}

fn cors(origins: &[String]) -> Value {
    origins.iter().map(|o| json!({ "safe_regex": { "regex": o } })).collect()
}

/// The services the edge translates: all with a public method.
fn public_services() -> BTreeSet<&'static str> {
    METHODS.iter().filter(|m| m.caller != Caller::Peer).map(|m| m.service).collect()
}

/// The JSON transcoder; streams over REST are server-sent events.
fn transcoder(descriptor: &Path, sse: bool) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": descriptor,
        "services": public_services(),
        "convert_grpc_status": true,
        "match_incoming_request_route": true,
        "case_insensitive_enum_parsing": true,
        "query_param_unescape_plus": true,
        "max_request_body_size": 262_144,
        "max_response_body_size": 8_388_608,
        "print_options": { "always_print_primitive_fields": true, "stream_sse_style_delimited": sse },
        "request_validation_options": {
            "reject_unknown_method": true,
            "reject_unknown_query_parameters": true,
            "reject_binding_body_field_collisions": true
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_fit_the_heap() {
        assert_eq!(connections_within(805_306_368), 10_089, "three quarters of 1 GiB, as the chart has it");
        assert_eq!(connections_within(1 << 26), 100, "less than Envoy itself takes: few, and the heap's own limit holds");
        for heap in [1_u64 << 28, 1 << 30, 1 << 33] {
            let full = (100 << 20) + u64::from(connections_within(heap)) * 42_000;
            assert!(full < heap / 10 * 9, "{full} of {heap}");
        }
    }
}
