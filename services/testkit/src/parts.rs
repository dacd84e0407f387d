//! Where the real stores are.

use anyhow::Context as _;

/// Addresses of the stores that tests run on.
#[derive(Debug, Clone)]
pub struct Parts {
    /// PostgreSQL, with a user that may create databases.
    pub database_url: String,
    /// Redis, when there is one.
    pub redis_url: Option<String>,
    /// Kafka brokers.
    pub kafka_brokers: String,
}

impl Parts {
    /// Reads the addresses from the environment.
    ///
    /// # Errors
    /// Names the variable that is missing.
    pub fn from_env() -> anyhow::Result<Parts> {
        Ok(Parts {
            database_url: Self::database_url()?,
            redis_url: std::env::var("REDIS_URL").ok(),
            kafka_brokers: needed("KAFKA_BROKERS")?,
        })
    }

    pub(crate) fn database_url() -> anyhow::Result<String> {
        needed("DATABASE_URL")
    }
}

fn needed(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: this test runs on the real stores, start them with `make up`"))
}
