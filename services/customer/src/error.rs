//! Why customer refuses. The reasons are those of mercato/customer/v1/errors.proto.

use std::time::Duration;

use mercato_chassis::error::{Code, Fault, Outcome, ServiceError};
use thiserror::Error;

/// A refusal of this service, or a fault below it.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no such customer, or it is not the caller: one answer for both.
    #[error("customer `{customer_id}` was not found")]
    CustomerNotFound {
        /// The id as it was asked for.
        customer_id: String,
    },
    /// The address belongs to an account.
    #[error("the e-mail address is taken")]
    EmailTaken,
    /// The name belongs to an account.
    #[error("the user name is taken")]
    UsernameTaken,
    /// The same for an unknown name and a wrong password.
    #[error("name or password is wrong")]
    CredentialsInvalid,
    /// Unknown, used, expired or ended: one answer for all.
    #[error("the refresh token is not valid")]
    RefreshTokenInvalid,
    /// Too many failures of this account or address.
    #[error("too many failed sign-ins, try again later")]
    LoginThrottled {
        /// When to try again.
        retry_after: Duration,
    },
    /// The profile is not the one the client read.
    #[error("the profile changed since it was read")]
    EtagMismatch {
        /// The present etag.
        current: String,
    },
    /// The mask names a field that its owner cannot change.
    #[error("field `{field}` cannot be changed")]
    UpdateMaskInvalid {
        /// The path as it was sent.
        field: String,
    },
    /// A rule that no single field of the contract can state.
    #[error("the request is not valid: {field}: {text}")]
    RequestInvalid {
        /// JSON path of the field.
        field: &'static str,
        /// What it has to be.
        text: &'static str,
    },
    /// Something below the rules went wrong.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Error::Fault(error.into())
    }
}

impl ServiceError for Error {
    fn code(&self) -> Code {
        match self {
            Error::CustomerNotFound { .. } => Code::NotFound,
            Error::EmailTaken | Error::UsernameTaken => Code::AlreadyExists,
            Error::CredentialsInvalid | Error::RefreshTokenInvalid => Code::Unauthenticated,
            Error::LoginThrottled { .. } => Code::ResourceExhausted,
            Error::EtagMismatch { .. } => Code::Aborted,
            Error::UpdateMaskInvalid { .. } | Error::RequestInvalid { .. } => Code::InvalidArgument,
            Error::Fault(fault) => fault.code(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Error::CustomerNotFound { .. } => "CUSTOMER_NOT_FOUND",
            Error::EmailTaken => "EMAIL_TAKEN",
            Error::UsernameTaken => "USERNAME_TAKEN",
            Error::CredentialsInvalid => "CREDENTIALS_INVALID",
            Error::RefreshTokenInvalid => "REFRESH_TOKEN_INVALID",
            Error::LoginThrottled { .. } => "LOGIN_THROTTLED",
            Error::EtagMismatch { .. } => "ETAG_MISMATCH",
            Error::UpdateMaskInvalid { .. } => "UPDATE_MASK_INVALID",
            Error::RequestInvalid { .. } => "REQUEST_INVALID",
            Error::Fault(fault) => fault.reason(),
        }
    }

    fn domain(&self) -> &'static str {
        match self {
            Error::RequestInvalid { .. } => "mercato",
            Error::Fault(fault) => fault.domain(),
            _ => "customer.mercato",
        }
    }

    fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Error::CustomerNotFound { customer_id } => vec![("customer_id", customer_id.clone())],
            Error::EtagMismatch { current } => vec![("etag", current.clone())],
            Error::UpdateMaskInvalid { field } => vec![("field", field.clone())],
            Error::RequestInvalid { .. } => vec![("violations", "1".to_owned())],
            Error::Fault(fault) => fault.metadata(),
            _ => Vec::new(),
        }
    }

    fn http_status(&self) -> Option<u16> {
        match self {
            Error::EtagMismatch { .. } => Some(412),
            Error::Fault(fault) => fault.http_status(),
            _ => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Error::Fault(fault) => fault.outcome(),
            _ => Outcome::NotApplied,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::LoginThrottled { retry_after } => Some(*retry_after),
            Error::Fault(fault) => fault.retry_after(),
            _ => None,
        }
    }

    fn violations(&self) -> Vec<(String, String, &'static str)> {
        match self {
            Error::RequestInvalid { field, text } => vec![((*field).to_owned(), (*text).to_owned(), "REQUIRED")],
            Error::Fault(fault) => fault.violations(),
            _ => Vec::new(),
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Error::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}
