//! What an order answers to a command: events, nothing, or a refusal. The saga is this function.

use super::order::{Event, Order, PaymentStatus, Status};

/// What somebody wants of an order, or tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Payment says: the provider holds the amount.
    PaymentAuthorized {
        /// The payment's id.
        payment_id: String,
    },
    /// Payment says: the provider did not tell.
    PaymentUnknown {
        /// The payment's id.
        payment_id: String,
    },
    /// Payment says: refused for good.
    PaymentFailed {
        /// The payment's id.
        payment_id: String,
        /// Why.
        reason: String,
    },
    /// Payment says: the money is captured.
    PaymentProcessed {
        /// The payment's id.
        payment_id: String,
    },
    /// Payment says: hold or money was given back.
    PaymentReturned {
        /// The payment's id.
        payment_id: String,
        /// Whether money had moved.
        refunded: bool,
    },
    /// Payment says: a step cannot be done.
    PaymentStuck {
        /// Which.
        step: String,
    },
    /// Inventory says: the hold is permanent.
    StockCommitted,
    /// Inventory says: the hold ran out or was given back before it could be made permanent.
    StockGone,
    /// Inventory says: the hold was given back.
    StockReleased,
    /// The customer, or support, wants it cancelled.
    Cancel {
        /// Who: CANCELLED_BY_CUSTOMER or CANCELLED_BY_SUPPORT.
        reason: String,
    },
}

/// Why a confirmed order needs a person: its money could not be captured.
const CAPTURE_EXHAUSTED: &str = "CAPTURE_EXHAUSTED";

/// The order stands where the command is not possible any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused;

/// The events a command causes; none when it says what is known already or comes too late to matter. Messages from neighbours come twice
/// and out of time, so only a customer's wish is ever refused.
pub fn decide(order: &Order, command: Command) -> Result<Vec<Event>, Refused> {
    Ok(match command {
        Command::PaymentAuthorized { payment_id } => authorized(order, payment_id),
        Command::PaymentUnknown { payment_id } => match (order.status, order.payment_status) {
            (Status::Pending, PaymentStatus::Pending) => vec![Event::PaymentUnknown { payment_id }],
            _ => vec![],
        },
        Command::PaymentFailed { payment_id, reason } => failed(order, payment_id, reason),
        Command::PaymentProcessed { payment_id } => match order.status {
            Status::Confirmed => vec![Event::PaymentProcessed { payment_id }],
            // a person, or the provider's late word, got the capture done after all
            Status::NeedsOperator if order.reason == CAPTURE_EXHAUSTED => vec![Event::PaymentProcessed { payment_id }],
            _ => vec![],
        },
        Command::PaymentReturned { payment_id, refunded } => match order.status {
            Status::Cancelled if order.money_in_the_air() => vec![Event::PaymentReturned { payment_id, refunded }],
            // what was stuck on the way back has arrived
            Status::NeedsOperator if order.reason != CAPTURE_EXHAUSTED && order.money_in_the_air() => {
                vec![Event::PaymentReturned { payment_id, refunded }, Event::Cancelled { reason: "PAYMENT_RETURNED".into() }]
            }
            Status::Paid | Status::Completed if refunded && order.payment_status == PaymentStatus::Processed => {
                vec![Event::PaymentReturned { payment_id, refunded }]
            }
            _ => vec![],
        },
        Command::PaymentStuck { step } => match order.status {
            Status::NeedsOperator | Status::Paid | Status::Completed => vec![],
            Status::Confirmed => vec![Event::Failed { reason: CAPTURE_EXHAUSTED.into() }],
            Status::Pending | Status::Cancelled => vec![Event::Failed { reason: stuck_reason(&step) }],
        },
        Command::StockCommitted => match (order.status, order.payment_status) {
            (Status::Pending, PaymentStatus::Authorized) => vec![Event::Confirmed],
            _ => vec![],
        },
        Command::StockGone => match order.status {
            Status::Pending => vec![Event::StockReleased, Event::Cancelled { reason: "RESERVATION_EXPIRED".into() }],
            _ => vec![],
        },
        Command::StockReleased => match order.status {
            Status::Cancelled if order.stock_held => vec![Event::StockReleased],
            _ => vec![],
        },
        Command::Cancel { reason } => match order.status {
            Status::Pending => vec![Event::Cancelled { reason }],
            _ => return Err(Refused),
        },
    })
}

/// `VOID_EXHAUSTED`, `REFUND_EXHAUSTED`; never the reason of a failed capture, which only a confirmed order has.
fn stuck_reason(step: &str) -> String {
    match step {
        "void" | "refund" => format!("{}_EXHAUSTED", step.to_ascii_uppercase()),
        _ => "PAYMENT_EXHAUSTED".to_owned(),
    }
}

fn authorized(order: &Order, payment_id: String) -> Vec<Event> {
    match (order.status, order.payment_status) {
        (Status::Pending, PaymentStatus::Pending | PaymentStatus::Unknown) => vec![Event::PaymentAuthorized { payment_id }],
        _ => vec![],
    }
}

fn failed(order: &Order, payment_id: String, reason: String) -> Vec<Event> {
    match order.status {
        Status::Pending => vec![Event::PaymentFailed { payment_id, reason: reason.clone() }, Event::Cancelled { reason }],
        Status::Cancelled if order.money_in_the_air() => vec![Event::PaymentFailed { payment_id, reason }],
        _ => vec![],
    }
}
