//! The programs a run starts.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The shop.
    pub mercato: PathBuf,
    /// The payment provider.
    pub provider: PathBuf,
    /// Envoy.
    pub envoy: PathBuf,
    /// The script that starts and kills PostgreSQL, Redis and Kafka.
    pub part: PathBuf,
}

impl Programs {
    /// Reads MERCATO_BIN, MERCATO_PROVIDER_BIN, MERCATO_ENVOY_BIN and MERCATO_PART, as `dev/chaos` and `dev/test` set them.
    ///
    /// # Errors
    /// When one is missing or names nothing.
    pub fn from_env() -> Result<Self> {
        let path = |name: &str| {
            let path = PathBuf::from(std::env::var_os(name).with_context(|| format!("{name} must be set: run `make chaos`"))?);
            path.exists().then_some(()).with_context(|| format!("{} is not there ({name})", path.display()))?;
            Ok::<_, anyhow::Error>(path)
        };
        Ok(Self {
            mercato: path("MERCATO_BIN")?,
            provider: path("MERCATO_PROVIDER_BIN")?,
            envoy: path("MERCATO_ENVOY_BIN")?,
            part: path("MERCATO_PART")?,
        })
    }

    /// The executables as they are now, so that a build during the run does not change them under a restart.
    pub(crate) fn keep(self, state: &Path) -> Result<Self> {
        let keep = |from: &Path| {
            let to = state.join(from.file_name().context("a program has a name")?);
            if std::fs::hard_link(from, &to).is_err() {
                std::fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
            }
            Ok::<_, anyhow::Error>(to)
        };
        Ok(Self { mercato: keep(&self.mercato)?, provider: keep(&self.provider)?, ..self })
    }
}
