//! Why payment refuses; one variant for each reason.

use mercato_chassis::{Code, Fault, Outcome, ServiceError};
use std::time::Duration;

/// Everything an RPC of this service answers with beside success.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "documented in errors.proto, which has the same names")]
pub enum Error {
    #[error("order `{order_id}` has no payment")]
    NotFound { order_id: String },
    #[error("nothing is captured for order `{order_id}`")]
    NotCaptured { order_id: String, status: &'static str },
    #[error("more than is left of the captured amount of order `{order_id}`")]
    RefundTooLarge { order_id: String, captured: String, refunded: String },
    #[error("amount: {0}")]
    AmountInvalid(String),
    #[error("the webhook's signature is missing, wrong or too old")]
    SignatureInvalid,
    #[error("no provider `{0}` is configured")]
    ProviderUnknown(String),
    /// Signed, but not a message we can read.
    #[error("the webhook cannot be read")]
    WebhookUnreadable,
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ServiceError for Error {
    fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } | Self::ProviderUnknown(_) => Code::NotFound,
            Self::NotCaptured { .. } | Self::RefundTooLarge { .. } => Code::FailedPrecondition,
            Self::AmountInvalid(_) | Self::WebhookUnreadable => Code::InvalidArgument,
            Self::SignatureInvalid => Code::Unauthenticated,
            Self::Fault(fault) => fault.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "PAYMENT_NOT_FOUND",
            Self::NotCaptured { .. } => "PAYMENT_NOT_CAPTURED",
            Self::RefundTooLarge { .. } => "REFUND_TOO_LARGE",
            Self::AmountInvalid(_) => "AMOUNT_INVALID",
            Self::SignatureInvalid => "WEBHOOK_SIGNATURE_INVALID",
            Self::ProviderUnknown(_) => "PROVIDER_UNKNOWN",
            Self::WebhookUnreadable => "REQUEST_INVALID",
            Self::Fault(fault) => fault.reason(),
        }
    }

    fn domain(&self) -> &'static str {
        match self {
            Self::Fault(fault) => fault.domain(),
            Self::WebhookUnreadable => mercato_chassis::error::DOMAIN,
            _ => "payment.mercato",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::NotFound { order_id } => vec![("order_id", order_id.clone())],
            Self::NotCaptured { order_id, status } => vec![("order_id", order_id.clone()), ("status", (*status).to_owned())],
            Self::RefundTooLarge { order_id, captured, refunded } => {
                vec![("order_id", order_id.clone()), ("captured", captured.clone()), ("refunded", refunded.clone())]
            }
            Self::ProviderUnknown(provider) => vec![("provider", provider.clone())],
            Self::AmountInvalid(_) | Self::SignatureInvalid | Self::WebhookUnreadable => vec![],
            Self::Fault(fault) => fault.metadata(),
        }
    }

    fn http_status(&self) -> Option<u16> {
        match self {
            Self::NotCaptured { .. } | Self::RefundTooLarge { .. } => Some(409),
            Self::Fault(fault) => fault.http_status(),
            _ => None,
        }
    }

    fn outcome(&self) -> Outcome {
        self.fault().map_or(Outcome::NotApplied, ServiceError::outcome)
    }

    fn retry_after(&self) -> Option<Duration> {
        self.fault().and_then(ServiceError::retry_after)
    }

    fn violations(&self) -> Vec<(String, String, &'static str)> {
        match self {
            Self::AmountInvalid(text) => vec![("amount".to_owned(), text.clone(), "AMOUNT_INVALID")],
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
