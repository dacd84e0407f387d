//! One fault, many who wait.

use chassis::error::Fault;
use mercato_chassis as chassis;

/// The same fault for another waiter.
pub(super) fn again(fault: &Fault) -> Fault {
    match fault {
        Fault::Conflict(error) => Fault::Conflict(sqlx::Error::Protocol(error.to_string())),
        Fault::Saturated => Fault::Saturated,
        Fault::Timeout => Fault::Timeout,
        Fault::CommitUnknown => Fault::CommitUnknown,
        Fault::DeadlineExceeded => Fault::DeadlineExceeded,
        Fault::Overloaded => Fault::Overloaded,
        Fault::Unavailable { peer, detail } => Fault::Unavailable { peer: peer.clone(), detail: detail.clone() },
        Fault::Db(error) => Fault::Db(sqlx::Error::Protocol(error.to_string())),
        other => Fault::Internal(other.to_string()),
    }
}
