//! What to log, and whether, where and how much to export: the standard variables of OpenTelemetry, as far as they apply.

use super::export::Plan;
use crate::config::Source;
use secrecy::{ExposeSecret as _, SecretString};
use std::{fmt::Write as _, time::Duration};
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
    transport::Endpoint,
};
use tracing_subscriber::filter::Targets;

/// What to log and whether to export.
pub struct Settings {
    pub(super) log: String,
    endpoint: Option<String>,
    headers: Option<SecretString>,
    timeout: Duration,
    /// The share of new traces that are sampled.
    pub(super) ratio: f64,
    /// How long a span takes that is worth keeping without being sampled; zero keeps none.
    pub(super) slow: Duration,
    /// Spans that may wait for the exporter.
    pub(super) queue: usize,
    most: usize,
    pause: Duration,
    resource: String,
    name: String,
}

impl Settings {
    /// Reads the settings; `name` is the `service.name` of spans that belong to no role.
    pub fn read(source: &mut Source, name: String) -> Self {
        let log = source.string("MERCATO_LOG", "info,sqlx=warn,librdkafka=warn", "log filter: level, or target=level, with commas");
        if let Err(error) = log.parse::<Targets>() {
            source.refuse("MERCATO_LOG", error);
        }
        let endpoint = source.optional(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "where traces are exported to by otlp over grpc, http://host:port; absent: nowhere. encryption is the business of a collector nearby",
        );
        if let Some(Err(error)) = endpoint.as_deref().map(address) {
            source.refuse("OTEL_EXPORTER_OTLP_ENDPOINT", error);
        }
        let headers = source.optional_secret("OTEL_EXPORTER_OTLP_HEADERS", "headers for the collector, name=value with commas");
        if let Some(Err(error)) = headers.as_ref().map(metadata) {
            source.refuse("OTEL_EXPORTER_OTLP_HEADERS", error);
        }
        Self {
            log,
            endpoint,
            headers,
            timeout: source.duration_ms(
                "OTEL_EXPORTER_OTLP_TIMEOUT",
                10_000,
                1..=60_000,
                "milliseconds the collector may take for a request",
            ),
            ratio: ratio(source),
            slow: source.duration_ms(
                "MERCATO_TRACE_SLOW_MS",
                1000,
                0..=600_000,
                "spans of so many milliseconds, and errors, are exported though their trace was not sampled; 0: they are not",
            ),
            queue: source.number(
                "OTEL_BSP_MAX_QUEUE_SIZE",
                8192,
                1..=1_000_000,
                "spans that may wait for the collector; what is more is lost",
            ),
            most: source.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, 1..=10_000, "spans in one request"),
            pause: source.duration_ms("OTEL_BSP_SCHEDULE_DELAY", 1000, 10..=60_000, "milliseconds a span waits for others at most"),
            resource: source.string("OTEL_RESOURCE_ATTRIBUTES", "", "what else to tell of this process, name=value with commas"),
            name,
        }
    }

    /// How to export; none when nothing is to be exported.
    pub(super) fn plan(&self) -> Result<Option<Plan>, String> {
        let Some(endpoint) = self.endpoint.as_deref() else { return Ok(None) };
        let endpoint = address(endpoint).map_err(|error| format!("OTEL_EXPORTER_OTLP_ENDPOINT: {error}"))?;
        let headers = self.headers.as_ref().map_or_else(|| Ok(Vec::new()), metadata)?;
        Ok(Some(Plan {
            endpoint: endpoint.connect_timeout(self.timeout),
            headers,
            timeout: self.timeout,
            most: self.most,
            pause: self.pause,
            service: self.name.clone(),
            resource: self.resource(),
        }))
    }

    fn resource(&self) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = [
            ("service.namespace", "mercato".to_owned()),
            ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
            ("service.instance.id", uuid::Uuid::new_v4().to_string()),
            ("process.pid", std::process::id().to_string()),
            ("telemetry.sdk.name", "mercato".to_owned()),
            ("telemetry.sdk.language", "rust".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        for (name, value) in pairs(&self.resource) {
            all.retain(|(known, _)| known != name);
            all.push((name.to_owned(), value.to_owned()));
        }
        all
    }
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.trim(), value.trim()))
}

fn address(url: &str) -> Result<Endpoint, String> {
    if !url.starts_with("http://") {
        return Err("must begin with http://".into());
    }
    Endpoint::from_shared(url.to_owned()).map_err(|error| error.to_string())
}

fn metadata(headers: &SecretString) -> Result<Vec<(AsciiMetadataKey, AsciiMetadataValue)>, String> {
    let parse = |(name, value): (&str, &str)| {
        let name = name.to_lowercase().parse::<AsciiMetadataKey>().map_err(|_| format!("{name:?} is no name of a header"))?;
        Ok((name, value.parse().map_err(|_| "a value is not visible ascii".to_owned())?))
    };
    pairs(headers.expose_secret()).map(parse).collect()
}

/// The share of the traces that begin here that is exported, from 0 to 1.
pub fn ratio(source: &mut Source) -> f64 {
    const SAMPLERS: [&str; 3] = ["parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"];
    let mut doc = String::from("which traces that begin here are exported; one that came from elsewhere is exported if it is there:");
    SAMPLERS.iter().for_each(|name| write!(doc, " {name}").unwrap_or_default());
    let sampler = source.string("OTEL_TRACES_SAMPLER", SAMPLERS[0], &doc);
    let share = source.number("OTEL_TRACES_SAMPLER_ARG", 1.0, 0.0..=1.0, "the share of traces that parentbased_traceidratio samples");
    match sampler.as_str() {
        "parentbased_always_on" => 1.0,
        "parentbased_always_off" => 0.0,
        "parentbased_traceidratio" => share,
        _ => {
            source.refuse("OTEL_TRACES_SAMPLER", format_args!("must be one of {}", SAMPLERS.join(", ")));
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> (Settings, Vec<String>) {
        let mut source = Source::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
        let settings = Settings::read(&mut source, "mercato-test".into());
        (settings, source.errors().to_vec())
    }

    #[test]
    fn nothing_is_exported_unless_asked_for() {
        let (settings, errors) = read(&[]);
        assert!(errors.is_empty() && settings.plan().unwrap().is_none());
        assert_eq!(settings.ratio, 1.0);
    }

    #[tokio::test]
    async fn the_standard_variables_are_understood() {
        let (settings, errors) = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer t=1, x-team = shop"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.05"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=7"),
        ]);
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(settings.ratio, 0.05);
        let plan = settings.plan().unwrap().unwrap();
        let headers: Vec<_> = plan.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(headers, [("authorization", "Bearer t=1"), ("x-team", "shop")]);
        assert_eq!(
            plan.resource.iter().filter(|(name, _)| name == "service.version").map(|(_, value)| value.as_str()).collect::<Vec<_>>(),
            ["7"]
        );
    }

    #[test]
    fn nonsense_is_told() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "bad name=1"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_SAMPLER_ARG", "5"),
        ] {
            let (_, errors) = read(&[(name, value)]);
            assert!(errors.len() == 1 && errors[0].starts_with(name), "{errors:?}");
        }
    }
}
