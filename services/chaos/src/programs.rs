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
    /// The library that moves the clocks of the shop's processes; only for runs that move them.
    pub faketime: Option<PathBuf>,
}

impl Programs {
    /// Reads MERCATO_BIN, MERCATO_PROVIDER_BIN, MERCATO_ENVOY_BIN and MERCATO_PART, as `dev/chaos` and `dev/test` set them.
    ///
    /// # Errors
    /// When one is missing or names nothing.
    pub fn from_env() -> Result<Self> {
        Ok(Self {
            mercato: path("MERCATO_BIN")?,
            provider: path("MERCATO_PROVIDER_BIN")?,
            envoy: path("MERCATO_ENVOY_BIN")?,
            part: path("MERCATO_PART")?,
            faketime: None,
        })
    }

    /// The same, for a run that moves clocks.
    ///
    /// # Errors
    /// When MERCATO_FAKETIME is missing or names nothing.
    pub fn with_clocks(self) -> Result<Self> {
        Ok(Self { faketime: Some(path("MERCATO_FAKETIME")?), ..self })
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

fn path(name: &str) -> Result<PathBuf> {
    let path = PathBuf::from(std::env::var_os(name).with_context(|| format!("{name} must be set: run `make chaos`"))?);
    path.exists().then_some(()).with_context(|| format!("{} is not there ({name})", path.display()))?;
    Ok(path)
}
