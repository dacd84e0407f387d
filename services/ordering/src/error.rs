//! Why ordering refuses. One variant a reason of `mercato/ordering/v1/errors.proto`.

use crate::domain::pricing::{PriceChange, PricingError};
use mercato_chassis::error::{Code, Fault, Outcome, ServiceError};
use std::time::Duration;
use uuid::Uuid;

/// A refusal of ordering, or a fault below it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller has no such order.
    #[error("order `{0}` does not exist")]
    NotFound(Uuid),
    /// A refusal while placing; these are remembered under the idempotency key.
    #[error(transparent)]
    Placement(#[from] Placement),
    /// The order is confirmed or ended already.
    #[error("order `{id}` cannot be cancelled any more, it is {status}")]
    NotCancellable {
        /// Which.
        id: Uuid,
        /// Where it stands.
        status: &'static str,
    },
    /// The page token is damaged or belongs to another query.
    #[error("the page token does not belong to this query")]
    PageToken,
    /// Another customer's orders were asked for.
    #[error("only support may list another customer's orders")]
    NotYours,
    /// Catalog or inventory did not answer in time.
    #[error("`{neighbour}` did not answer in time, nothing was ordered")]
    Neighbour {
        /// Who.
        neighbour: &'static str,
    },
    /// What lies below.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Definite refusals of an order; cloneable because the transaction that remembers one may run twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Placement {
    /// Not enough stock.
    #[error("not enough stock of product `{product_id}`: {requested} wanted, {available} available")]
    InsufficientStock {
        /// The first product short.
        product_id: String,
        /// Units wanted.
        requested: String,
        /// Units there.
        available: String,
    },
    /// A price is not what the customer was shown.
    #[error("the price changed: {} was expected, it is {}", .0.expected_total.to_amount(), .0.actual_total.to_amount())]
    PriceChanged(Box<PriceChange>),
    /// A product is unknown, deleted or not for sale.
    #[error("product `{0}` is not for sale")]
    ProductNotFound(String),
    /// A product appears twice.
    #[error("product `{0}` appears twice")]
    Repeated(Uuid),
    /// Several currencies.
    #[error("the products are priced in several currencies")]
    CurrencyMixed,
    /// Too large, or too many decimals.
    #[error("an amount has too many decimals or the total is too large")]
    AmountInvalid,
    /// An earlier try with this key held stock that ran out.
    #[error("the hold of an earlier try ran out, place the order anew with a new key")]
    Expired(Uuid),
}

impl From<PricingError> for Placement {
    fn from(error: PricingError) -> Self {
        match error {
            PricingError::Repeated(id) => Self::Repeated(id),
            PricingError::CurrencyMixed => Self::CurrencyMixed,
            PricingError::AmountInvalid => Self::AmountInvalid,
            PricingError::PriceChanged(change) => Self::PriceChanged(change),
        }
    }
}

impl Placement {
    fn code(&self) -> Code {
        match self {
            Self::InsufficientStock { .. } | Self::PriceChanged(_) | Self::Expired(_) => Code::FailedPrecondition,
            Self::ProductNotFound(_) => Code::NotFound,
            Self::Repeated(_) | Self::CurrencyMixed | Self::AmountInvalid => Code::InvalidArgument,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::InsufficientStock { .. } => "INSUFFICIENT_STOCK",
            Self::PriceChanged(_) => "PRICE_CHANGED",
            Self::ProductNotFound(_) => "PRODUCT_NOT_FOUND",
            Self::Repeated(_) => "PRODUCT_REPEATED",
            Self::CurrencyMixed => "CURRENCY_MIXED",
            Self::AmountInvalid => "AMOUNT_INVALID",
            Self::Expired(_) => "PLACEMENT_EXPIRED",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::InsufficientStock { product_id, requested, available } => {
                vec![("product_id", product_id.clone()), ("requested", requested.clone()), ("available", available.clone())]
            }
            Self::PriceChanged(change) => {
                let mut facts = vec![
                    ("expected_total", change.expected_total.to_amount()),
                    ("actual_total", change.actual_total.to_amount()),
                    ("currency_code", change.actual_total.currency().code().to_owned()),
                ];
                if let Some((product, expected, actual)) = &change.unit {
                    facts.push(("product_id", product.to_string()));
                    facts.push(("expected_price", expected.to_amount()));
                    facts.push(("actual_price", actual.to_amount()));
                }
                facts
            }
            Self::ProductNotFound(id) => vec![("product_id", id.clone())],
            Self::Repeated(id) => vec![("product_id", id.to_string())],
            Self::Expired(id) => vec![("order_id", id.to_string())],
            Self::CurrencyMixed | Self::AmountInvalid => vec![],
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
            Self::NotFound(_) => Code::NotFound,
            Self::Placement(p) => p.code(),
            Self::NotCancellable { .. } => Code::FailedPrecondition,
            Self::PageToken => Code::InvalidArgument,
            Self::NotYours => Code::PermissionDenied,
            Self::Neighbour { .. } => Code::Unavailable,
            Self::Fault(f) => f.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "ORDER_NOT_FOUND",
            Self::Placement(p) => p.reason(),
            Self::NotCancellable { .. } => "ORDER_NOT_CANCELLABLE",
            Self::PageToken => "PAGE_TOKEN_INVALID",
            Self::NotYours => "NOT_YOUR_ORDERS",
            Self::Neighbour { .. } => "NEIGHBOUR_UNAVAILABLE",
            Self::Fault(f) => f.reason(),
        }
    }

    fn domain(&self) -> &'static str {
        match self {
            Self::Fault(f) => f.domain(),
            _ => "ordering.mercato",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::NotFound(id) => vec![("order_id", id.to_string())],
            Self::Placement(p) => p.metadata(),
            Self::NotCancellable { id, status } => vec![("order_id", id.to_string()), ("status", (*status).to_owned())],
            Self::Neighbour { neighbour } => vec![("service", (*neighbour).to_owned())],
            Self::Fault(f) => f.metadata(),
            Self::PageToken | Self::NotYours => vec![],
        }
    }

    fn http_status(&self) -> Option<u16> {
        match self {
            Self::Placement(p) if matches!(p.code(), Code::FailedPrecondition) => Some(409),
            Self::NotCancellable { .. } => Some(409),
            Self::Fault(f) => f.http_status(),
            _ => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Fault(f) => f.outcome(),
            _ => Outcome::NotApplied,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Neighbour { .. } => Some(Duration::from_millis(500)),
            Self::Fault(f) => f.retry_after(),
            _ => None,
        }
    }

    fn violations(&self) -> Vec<(String, String, &'static str)> {
        match self {
            Self::PageToken => vec![("pageToken".into(), self.to_string(), self.reason())],
            Self::Placement(p) if matches!(p.code(), Code::InvalidArgument) => vec![("items".into(), p.to_string(), p.reason())],
            Self::Fault(f) => f.violations(),
            _ => vec![],
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(f) => Some(f),
            _ => None,
        }
    }
}
