//! Why the catalog refuses: `mercato.catalog.v1.Reason` as a Rust type.

use chassis::error::{Code, Fault, Outcome, ServiceError};
use mercato_chassis as chassis;
use std::time::Duration;
use uuid::Uuid;

/// Domain of the catalog's reasons in `ErrorInfo`.
pub const DOMAIN: &str = "catalog.mercato";

/// A refusal of the catalog, or a fault below it.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// There is no such product, or it was deleted.
    #[error("there is no product `{product_id}`")]
    ProductNotFound {
        /// The id asked for.
        product_id: Uuid,
    },
    /// The product changed since the caller read it.
    #[error("product `{product_id}` has changed: its etag is `{etag}` now")]
    EtagMismatch {
        /// The product.
        product_id: Uuid,
        /// The current etag.
        etag: String,
    },
    /// An amount that cannot be a price here.
    #[error("`{field}` is no price in {currency_code}: {why}")]
    PriceInvalid {
        /// JSON path of the amount.
        field: &'static str,
        /// The shop's currency.
        currency_code: String,
        /// What is wrong.
        why: String,
    },
    /// The page token is damaged or belongs to another query.
    #[error("the page token is damaged or belongs to another query")]
    PageTokenInvalid,
    /// The update mask names a field that cannot be changed as asked.
    #[error("the update mask cannot name `{field}`: {why}")]
    UpdateMaskInvalid {
        /// The field, as in the mask.
        field: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A fault below the catalog's own rules.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ServiceError for CatalogError {
    fn code(&self) -> Code {
        match self {
            Self::ProductNotFound { .. } => Code::NotFound,
            Self::EtagMismatch { .. } => Code::Aborted,
            Self::PriceInvalid { .. } | Self::PageTokenInvalid | Self::UpdateMaskInvalid { .. } => Code::InvalidArgument,
            Self::Fault(fault) => fault.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::ProductNotFound { .. } => "PRODUCT_NOT_FOUND",
            Self::EtagMismatch { .. } => "ETAG_MISMATCH",
            Self::PriceInvalid { .. } => "PRICE_INVALID",
            Self::PageTokenInvalid => "PAGE_TOKEN_INVALID",
            Self::UpdateMaskInvalid { .. } => "UPDATE_MASK_INVALID",
            Self::Fault(fault) => fault.reason(),
        }
    }

    fn domain(&self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.domain(),
            _ => DOMAIN,
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::ProductNotFound { product_id } => vec![("product_id", product_id.to_string())],
            Self::EtagMismatch { product_id, etag } => vec![("product_id", product_id.to_string()), ("etag", etag.clone())],
            Self::PriceInvalid { currency_code, .. } => vec![("currency_code", currency_code.clone())],
            Self::PageTokenInvalid => vec![],
            Self::UpdateMaskInvalid { field, .. } => vec![("field", field.clone())],
            Self::Fault(fault) => fault.metadata(),
        }
    }

    fn http_status(&self) -> Option<u16> {
        match self {
            Self::EtagMismatch { .. } => Some(412),
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
            Self::PriceInvalid { field, why, .. } => vec![((*field).to_owned(), why.clone(), "PRICE_INVALID")],
            Self::PageTokenInvalid => vec![("pageToken".to_owned(), self.to_string(), "PAGE_TOKEN_INVALID")],
            Self::UpdateMaskInvalid { .. } => vec![("updateMask".to_owned(), self.to_string(), "UPDATE_MASK_INVALID")],
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
