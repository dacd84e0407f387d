//! The ways to record spans.

use anyhow::Context as _;
use clap::ValueEnum;
use mercato_chassis::{config::Source, telemetry};
use opentelemetry::{
    Context,
    propagation::TextMapPropagator as _,
    trace::{TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use std::collections::HashMap;
use tracing::{Span, level_filters::LevelFilter};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Registry, filter::Targets, layer::SubscriberExt as _};

/// Room and pace of the export, the same for ours and the SDK.
pub const QUEUE: [(&str, &str); 3] =
    [("OTEL_BSP_MAX_QUEUE_SIZE", "65536"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512"), ("OTEL_BSP_SCHEDULE_DELAY", "1000")];

/// How spans are recorded, and which of them are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// `tracing` with a registry and no layer.
    Floor,
    /// Our layers, nothing sent: ids for logs and calls.
    Ids,
    /// Our layers, everything sent.
    Ours,
    /// Our layers, a hundredth of the orders sampled; the others held back for errors and slow ones.
    OursFew,
    /// Our layers, a hundredth of the orders sampled, nothing else kept.
    OursFewOnly,
    /// The SDK behind `tracing-opentelemetry`, everything sent.
    Sdk,
    /// The SDK, a hundredth of the orders sampled; nothing else can be kept.
    SdkFew,
}

impl Way {
    /// In the order of the table.
    pub const ALL: [Self; 7] = [Self::Floor, Self::Ids, Self::Ours, Self::Sdk, Self::OursFew, Self::OursFewOnly, Self::SdkFew];

    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Ids => "ids",
            Self::Ours => "ours",
            Self::OursFew => "ours-few",
            Self::OursFewOnly => "ours-few-only",
            Self::Sdk => "sdk",
            Self::SdkFew => "sdk-few",
        }
    }

    /// As people read it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Floor => "floor: tracing with a registry, no layer",
            Self::Ids => "ours, nothing exported",
            Self::Ours => "ours, every trace",
            Self::OursFew => "ours, 1 % sampled, the rest held back",
            Self::OursFewOnly => "ours, 1 % sampled, nothing held back",
            Self::Sdk => "SDK, every trace",
            Self::SdkFew => "SDK, 1 % sampled",
        }
    }

    /// Every how many orders one is sampled where it begins; none when nothing is exported.
    pub fn sampled(self) -> Option<u64> {
        match self {
            Self::Floor | Self::Ids => None,
            Self::Ours | Self::Sdk => Some(1),
            Self::OursFew | Self::OursFewOnly | Self::SdkFew => Some(100),
        }
    }

    fn sdk(self) -> bool {
        matches!(self, Self::Sdk | Self::SdkFew)
    }

    /// Whether our layers record the spans.
    pub fn ours(self) -> bool {
        !self.sdk() && self != Self::Floor
    }

    /// Installs it for this process.
    pub fn install(self, endpoint: &str) -> anyhow::Result<Recorder> {
        let mut sdk = None;
        if self.ours() {
            let mut env: Vec<(&str, &str)> = QUEUE.to_vec();
            if self != Self::Ids {
                env.push(("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint));
            }
            if self == Self::OursFewOnly {
                env.push(("MERCATO_TRACE_SLOW_MS", "0"));
            }
            let mut source = Source::new(env.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
            let settings = telemetry::Settings::read(&mut source, "mercato-bench".into());
            telemetry::init(&settings).map_err(anyhow::Error::msg)?;
        } else {
            let ours = Targets::new().with_target("mercato_bench", LevelFilter::INFO);
            let layer = if self.sdk() {
                let provider = provider(endpoint)?;
                let tracer = provider.tracer("mercato");
                sdk = Some(provider);
                // nothing but what our layer records as well
                let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
                Some(layer.with_tracked_inactivity(false).with_target(false).with_level(false).with_context_activation(false))
            } else {
                None
            };
            tracing::subscriber::set_global_default(Registry::default().with(layer).with(ours)).context("the subscriber")?;
        }
        Ok(Recorder { way: self, sdk, propagator: TraceContextPropagator::new() })
    }
}

fn provider(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build().context("the exporter")?;
    let resource = Resource::builder().with_service_name("mercato-bench").build();
    let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOn));
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_sampler(sampler).with_resource(resource).build())
}

/// What goes between processes and into spans later, the way's own way.
pub struct Recorder {
    way: Way,
    sdk: Option<SdkTracerProvider>,
    propagator: TraceContextPropagator,
}

impl Recorder {
    /// The `traceparent` of a span, as it goes with a call or an event.
    pub fn sent(&self, span: &Span) -> Option<String> {
        if !self.way.sdk() {
            return telemetry::traceparent_of(span);
        }
        let mut headers = HashMap::new();
        self.propagator.inject_context(&span.context(), &mut headers);
        headers.remove("traceparent")
    }

    /// What a span that continues a trace is given as its field `traceparent`, which our layer reads.
    pub fn field<'p>(&self, parent: Option<&'p str>) -> Option<&'p str> {
        parent.filter(|_| !self.way.sdk())
    }

    /// Has a span continue a trace from elsewhere.
    pub fn continues(&self, span: &Span, parent: Option<&str>) {
        if let Some(parent) = parent.filter(|_| self.way.sdk()) {
            span.set_parent(self.extract(parent)).expect("the layer is there and the span has not been entered");
        }
    }

    /// Links a span.
    pub fn link(&self, span: &Span, to: Option<&str>) {
        let Some(to) = to else { return };
        if self.way.sdk() {
            span.add_link(self.extract(to).span().span_context().clone());
        } else {
            telemetry::link(span, to);
        }
    }

    /// Notes something about the current span.
    pub fn note(&self, name: &'static str, value: &str) {
        if self.way.sdk() {
            Span::current().set_attribute(name, value.to_owned());
        } else {
            telemetry::note(name, value);
        }
    }

    fn extract(&self, parent: &str) -> Context {
        let headers = HashMap::from([("traceparent".to_owned(), parent.to_owned())]);
        self.propagator.extract_with_context(&Context::new(), &headers)
    }

    /// Sends what is left.
    pub async fn flush(&self) -> anyhow::Result<()> {
        match self.sdk.clone() {
            // it blocks
            Some(sdk) => tokio::task::spawn_blocking(move || sdk.force_flush()).await?.context("the last spans"),
            None => {
                telemetry::shutdown().await;
                Ok(())
            }
        }
    }
}

/// A count as a number to calculate with.
pub fn whole(count: u64) -> f64 {
    crate::report::number(count)
}
