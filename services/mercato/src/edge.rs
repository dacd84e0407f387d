//! `mercato edge`: Envoy's configuration for this environment.

use anyhow::Context;
use mercato_chassis::config::{Source, process_env};
use mercato_chassis::{telemetry, token::TokenSettings};
use mercato_gateway::edge::{EdgeSettings, Upstream, connections_within, write as write_edge};
use std::path::Path;

/// The roles and where they listen when each is a process of its own and nothing else is said.
const APART: &[(&str, &str)] = &[
    ("catalog", "127.0.0.1:50061"),
    ("inventory", "127.0.0.1:50062"),
    ("ordering", "127.0.0.1:50063"),
    ("payment", "127.0.0.1:50064"),
    ("customer", "127.0.0.1:50065"),
    ("gateway", "127.0.0.1:50066"),
];

/// Writes `envoy.yaml` and `envoy.bin` into a folder.
pub fn write(folder: &Path) -> anyhow::Result<()> {
    let mut source = Source::new(process_env());
    let settings = settings(&mut source);
    if !source.errors().is_empty() {
        anyhow::bail!("{}", source.errors().join("\n"));
    }
    write_edge(&settings, folder).with_context(|| format!("the edge's configuration cannot be written to `{}`", folder.display()))
}

fn settings(source: &mut Source) -> EdgeSettings {
    let tokens = TokenSettings::read(source);
    let max_heap_bytes = source.number("MERCATO_EDGE_MAX_HEAP_BYTES", 1 << 30, 1 << 26..=1 << 40, "memory at which envoy defends itself");
    EdgeSettings {
        node: source.string("MERCATO_EDGE_NODE", "edge-0", "name of this envoy in logs and metrics"),
        listen: source.address("MERCATO_EDGE_ADDR", "127.0.0.1:8080", "where clients come in"),
        admin: source.address("MERCATO_EDGE_ADMIN_ADDR", "127.0.0.1:9901", "envoy's own admin interface"),
        stats: source.optional_address("MERCATO_EDGE_STATS_ADDR", "where envoy's metrics and readiness are shown to other hosts"),
        upstream: upstream(source),
        gateway_http: source.string("MERCATO_GATEWAY_HTTP_ADDR", "127.0.0.1:8081", "the gateway's http face"),
        issuer: tokens.issuer,
        audience: tokens.audience,
        keys_seconds: source.number("MERCATO_EDGE_KEYS_SECONDS", 60, 1..=3600, "how long the edge believes the published keys, in seconds"),
        trusted_hops: source.number("MERCATO_EDGE_TRUSTED_HOPS", 0, 0..=10, "proxies in front whose word about the client counts"),
        max_heap_bytes,
        max_connections: source.number(
            "MERCATO_EDGE_MAX_CONNECTIONS",
            connections_within(max_heap_bytes),
            1..=1_000_000,
            "connections of clients at once, and calls under way to a role; absent: what fits that memory",
        ),
        access_log: source.string("MERCATO_EDGE_ACCESS_LOG", "stdout", "where the access log goes: stdout or a file"),
        cors_origins: source
            .string(
                "MERCATO_CORS_ORIGINS",
                "http://(localhost|127[.]0[.]0[.]1)(:[0-9]+)?",
                "origins of browsers that may call, regular expressions with commas",
            )
            .split(',')
            .map(str::to_owned)
            .filter(|o| !o.is_empty())
            .collect(),
        otlp: collector(source),
        trace_percent: trace_percent(source),
    }
}

/// The services' collector takes the edge's spans as well, unless another one is named.
fn collector(source: &mut Source) -> Option<String> {
    let own =
        source.optional("MERCATO_EDGE_OTLP", "collector for the edge's traces, host:port; absent: that of OTEL_EXPORTER_OTLP_ENDPOINT");
    let bare = |url: &String| url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    own.or_else(|| source.env().get("OTEL_EXPORTER_OTLP_ENDPOINT").map(bare)).filter(|collector| !collector.is_empty())
}

fn trace_percent(source: &mut Source) -> f64 {
    let share = telemetry::ratio(source);
    source.number("MERCATO_EDGE_TRACE_PERCENT", share * 100.0, 0.0..=100.0, "of a hundred requests, how many are traced")
}

fn upstream(source: &mut Source) -> Upstream {
    let together =
        source.string("MERCATO_GRPC_ADDR", "127.0.0.1:50051", "where all roles are served together, or offered to tools when apart");
    if !source.flag("MERCATO_EDGE_SPLIT", false, "whether each role is a process of its own") {
        return Upstream::Together(together);
    }
    let roles = APART
        .iter()
        .map(|(role, address)| {
            let name = format!("MERCATO_PEER_{}", role.to_uppercase());
            let urls = source.string(&name, &format!("http://{address}"), "where the role listens, several with commas");
            let bare = |url: &str| url.trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
            ((*role).to_owned(), urls.split(',').map(bare).collect::<Vec<_>>().join(","))
        })
        .collect();
    Upstream::Apart { roles, internal: source.address("MERCATO_GRPC_ADDR", "127.0.0.1:50051", "where all roles are offered to tools") }
}
