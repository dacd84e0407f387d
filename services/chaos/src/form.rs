//! The processes of a shop, and how the roles are divided among them.

use std::fmt;

/// The roles of the shop.
pub const ROLES: [&str; 6] = ["catalog", "inventory", "ordering", "payment", "customer", "gateway"];
/// The second process of each role, where there are two.
const SECONDS: [&str; 6] = ["catalog-2", "inventory-2", "ordering-2", "payment-2", "customer-2", "gateway-2"];
/// The roles with a database.
pub const STORES: [&str; 5] = ["catalog", "inventory", "ordering", "payment", "customer"];

/// A process that can be attacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// PostgreSQL, with its backends.
    Postgres,
    /// Redis.
    Redis,
    /// The broker.
    Kafka,
    /// The edge.
    Envoy,
    /// The payment provider.
    Provider,
    /// All roles in one process (`mercato` and, for twins, `second`), or one role (and, for pairs, `role-2`).
    Service(&'static str),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::Kafka => "kafka",
            Self::Envoy => "envoy",
            Self::Provider => "provider",
            Self::Service(name) => name,
        })
    }
}

/// How the roles are divided among processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// All in one process.
    Together,
    /// Each role a process of its own.
    Apart,
    /// Two processes with all roles each, on the same databases and topics, behind the same edge.
    Twins,
    /// Two processes for each role.
    Pairs,
}

impl Form {
    /// The processes.
    pub(crate) fn services(self) -> Vec<&'static str> {
        match self {
            Self::Together => vec!["mercato"],
            Self::Apart => ROLES.to_vec(),
            Self::Twins => vec!["mercato", "second"],
            Self::Pairs => ROLES.into_iter().chain(SECONDS).collect(),
        }
    }

    /// Whether each process has one role.
    pub(crate) fn divided(self) -> bool {
        matches!(self, Self::Apart | Self::Pairs)
    }
}

/// The role of a process, or its name when it has all of them.
pub(crate) fn role_of(service: &str) -> &str {
    service.strip_suffix("-2").unwrap_or(service)
}
