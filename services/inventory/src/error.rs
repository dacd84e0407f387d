//! Why inventory refuses.

use crate::domain::{Refusal, Status};
use chassis::error::{Code, Fault, Outcome, ServiceError};
use mercato_chassis as chassis;
use std::time::Duration;
use uuid::Uuid;

/// Everything inventory's methods can fail with; reasons are those of `mercato.inventory.v1.Reason`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not enough stock of a product, the first one short.
    #[error("only {available} of `{product}` left, {requested} wanted")]
    InsufficientStock {
        /// The product.
        product: Uuid,
        /// Units wanted.
        requested: i64,
        /// Units that could be reserved.
        available: i64,
    },
    /// The catalog has no such product.
    #[error("no product `{0}`")]
    ProductUnknown(Uuid),
    /// More units are promised to orders than the new level holds.
    #[error("{reserved} units of `{product}` are reserved in this warehouse")]
    LevelBelowReserved {
        /// The product.
        product: Uuid,
        /// Units promised, in the warehouse.
        reserved: i64,
    },
    /// The order holds nothing.
    #[error("order `{0}` holds no stock")]
    ReservationNotFound(Uuid),
    /// The hold expired or was released.
    #[error("the hold of order `{order}` has ended: {}", status.name())]
    ReservationEnded {
        /// The order.
        order: Uuid,
        /// How it ended.
        status: Status,
    },
    /// The order already holds other items.
    #[error("order `{0}` already holds other items")]
    ReservationConflict(Uuid),
    /// The page token is damaged or belongs to another query.
    #[error("the page token is damaged or belongs to another query")]
    PageTokenInvalid,
    /// Fields that break a rule the contract cannot state: JSON path, text, reason.
    #[error("the request is invalid")]
    Invalid(Vec<(String, String, &'static str)>),
    /// Below inventory's own rules.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Short { product, requested, available } => Self::InsufficientStock { product, requested, available },
            Refusal::NotFound(order) => Self::ReservationNotFound(order),
            Refusal::Ended { order, status } => Self::ReservationEnded { order, status },
            Refusal::Conflict(order) => Self::ReservationConflict(order),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl ServiceError for Error {
    fn code(&self) -> Code {
        match self {
            Self::ProductUnknown(_) | Self::ReservationNotFound(_) => Code::NotFound,
            Self::PageTokenInvalid | Self::Invalid(_) => Code::InvalidArgument,
            Self::InsufficientStock { .. }
            | Self::LevelBelowReserved { .. }
            | Self::ReservationEnded { .. }
            | Self::ReservationConflict(_) => Code::FailedPrecondition,
            Self::Fault(fault) => fault.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::InsufficientStock { .. } => "INSUFFICIENT_STOCK",
            Self::ProductUnknown(_) => "PRODUCT_UNKNOWN",
            Self::LevelBelowReserved { .. } => "LEVEL_BELOW_RESERVED",
            Self::ReservationNotFound(_) => "RESERVATION_NOT_FOUND",
            Self::ReservationEnded { .. } => "RESERVATION_ENDED",
            Self::ReservationConflict(_) => "RESERVATION_CONFLICT",
            Self::PageTokenInvalid => "PAGE_TOKEN_INVALID",
            Self::Invalid(_) => "REQUEST_INVALID",
            Self::Fault(fault) => fault.reason(),
        }
    }

    fn domain(&self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.domain(),
            Self::Invalid(_) => "mercato",
            _ => "inventory.mercato",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::InsufficientStock { product, requested, available } => {
                vec![("product_id", product.to_string()), ("requested", requested.to_string()), ("available", available.to_string())]
            }
            Self::ProductUnknown(product) => vec![("product_id", product.to_string())],
            Self::LevelBelowReserved { product, reserved } => {
                vec![("product_id", product.to_string()), ("reserved", reserved.to_string())]
            }
            Self::ReservationNotFound(order) | Self::ReservationConflict(order) => vec![("order_id", order.to_string())],
            Self::ReservationEnded { order, status } => vec![("order_id", order.to_string()), ("status", status.name().to_owned())],
            Self::PageTokenInvalid => vec![],
            Self::Invalid(violations) => vec![("violations", violations.len().to_string())],
            Self::Fault(fault) => fault.metadata(),
        }
    }

    fn http_status(&self) -> Option<u16> {
        match self {
            Self::InsufficientStock { .. } => Some(409),
            Self::Fault(fault) => fault.http_status(),
            _ => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Fault(fault) => fault.outcome(),
            _ => Outcome::NotApplied,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fault(fault) => fault.retry_after(),
            _ => None,
        }
    }

    fn violations(&self) -> Vec<(String, String, &'static str)> {
        match self {
            Self::Invalid(violations) => violations.clone(),
            Self::Fault(fault) => fault.violations(),
            _ => vec![],
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}
