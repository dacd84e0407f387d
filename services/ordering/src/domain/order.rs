//! The order as the fold of its events.

use mercato_chassis::money::Money;
use time::OffsetDateTime;
use uuid::Uuid;

/// Where an order stands; the numbers are those of the contract's `Order.Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Stock is held, payment is under way.
    Pending = 1,
    /// Authorised and committed: the order stands.
    Confirmed = 2,
    /// The money is captured.
    Paid = 3,
    /// Shipped and delivered.
    Completed = 4,
    /// Ended before shipping.
    Cancelled = 5,
    /// A person has to look.
    NeedsOperator = 6,
}

/// Where its payment stands; the numbers are those of the contract's `Order.PaymentStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentStatus {
    /// Not decided yet.
    Pending = 1,
    /// The provider holds the amount.
    Authorized = 2,
    /// The amount is ours.
    Processed = 3,
    /// Refused.
    Failed = 4,
    /// Being looked up.
    Unknown = 5,
    /// Given back before money moved.
    Voided = 6,
    /// Given back after money moved.
    Refunded = 7,
}

/// A postal address as sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Address {
    /// Street and house number.
    pub street: String,
    /// City or town.
    pub city: String,
    /// State or region, may be empty.
    pub state: String,
    /// Postal code.
    pub zip_code: String,
    /// ISO 3166-1 alpha-2, may be empty.
    pub country_code: String,
}

/// One line, frozen at the moment of ordering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What was ordered.
    pub product_id: Uuid,
    /// Its name at that moment.
    pub name: String,
    /// Units, at least one.
    pub quantity: i32,
    /// Price of one unit.
    pub price: Money,
    /// Price of the line.
    pub total: Money,
}

/// What an order begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The order's id.
    pub id: Uuid,
    /// Whose it is.
    pub customer_id: Uuid,
    /// At least one line.
    pub lines: Vec<Line>,
    /// Sum of the lines.
    pub total: Money,
    /// Where it goes.
    pub address: Address,
    /// How it is paid.
    pub payment_method: String,
}

/// What can happen to an order. The first is always `Created`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Stock is held and the order stands as pending. The token is for the provider and kept nowhere else.
    Created {
        /// The order as placed.
        placed: Placed,
        /// The provider's token for the means of payment.
        payment_token: String,
    },
    /// The provider holds the amount.
    PaymentAuthorized {
        /// The payment's id.
        payment_id: String,
    },
    /// The provider did not tell.
    PaymentUnknown {
        /// The payment's id.
        payment_id: String,
    },
    /// The stock is committed.
    Confirmed,
    /// The money is captured.
    PaymentProcessed {
        /// The payment's id.
        payment_id: String,
    },
    /// The payment was refused.
    PaymentFailed {
        /// The payment's id.
        payment_id: String,
        /// Why.
        reason: String,
    },
    /// Ended before shipping.
    Cancelled {
        /// Why.
        reason: String,
    },
    /// Hold or money was given back.
    PaymentReturned {
        /// The payment's id.
        payment_id: String,
        /// Whether money had moved.
        refunded: bool,
    },
    /// The hold on the stock was given back.
    StockReleased,
    /// Shipped and delivered.
    Completed,
    /// A person has to look.
    Failed {
        /// What cannot be done.
        reason: String,
    },
}

/// One order at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// What it began with.
    pub placed: Placed,
    /// Where it stands.
    pub status: Status,
    /// Where its payment stands.
    pub payment_status: PaymentStatus,
    /// Why it was cancelled or is stuck.
    pub reason: String,
    /// The payment's id, empty until the payment answered.
    pub payment_id: String,
    /// Whether inventory still holds stock for it.
    pub stock_held: bool,
    /// Number of the latest event.
    pub version: i64,
    /// When it was placed.
    pub created_at: OffsetDateTime,
    /// When the latest event happened.
    pub updated_at: OffsetDateTime,
}

impl Order {
    /// The order after its first event, `Event::Created`.
    pub fn created(placed: Placed, at: OffsetDateTime) -> Self {
        Self {
            placed,
            status: Status::Pending,
            payment_status: PaymentStatus::Pending,
            reason: String::new(),
            payment_id: String::new(),
            stock_held: true,
            version: 1,
            created_at: at,
            updated_at: at,
        }
    }

    /// The order after one more event. Total: every event of the stream can be applied, whatever came before, so that a stream once
    /// written can always be read.
    pub fn apply(&mut self, event: &Event, at: OffsetDateTime) {
        match event {
            Event::Created { .. } => {}
            Event::PaymentAuthorized { payment_id } => self.payment(PaymentStatus::Authorized, payment_id),
            Event::PaymentUnknown { payment_id } => self.payment(PaymentStatus::Unknown, payment_id),
            Event::Confirmed => self.status = Status::Confirmed,
            Event::PaymentProcessed { payment_id } => {
                self.payment(PaymentStatus::Processed, payment_id);
                self.status = Status::Paid;
            }
            Event::PaymentFailed { payment_id, .. } => self.payment(PaymentStatus::Failed, payment_id),
            Event::Cancelled { reason } => {
                self.status = Status::Cancelled;
                self.reason.clone_from(reason);
            }
            Event::PaymentReturned { payment_id, refunded } => {
                self.payment(if *refunded { PaymentStatus::Refunded } else { PaymentStatus::Voided }, payment_id);
            }
            Event::StockReleased => self.stock_held = false,
            Event::Completed => {
                self.status = Status::Completed;
                self.stock_held = false;
            }
            Event::Failed { reason } => {
                self.status = Status::NeedsOperator;
                self.reason.clone_from(reason);
            }
        }
        self.version += 1;
        self.updated_at = at;
    }

    fn payment(&mut self, status: PaymentStatus, id: &str) {
        self.payment_status = status;
        id.clone_into(&mut self.payment_id);
    }

    /// Whether nothing more happens by itself, so that a watcher may go home.
    pub fn settled(&self) -> bool {
        matches!(self.status, Status::Paid | Status::Completed | Status::NeedsOperator)
            || (self.status == Status::Cancelled && !self.open())
    }

    /// Whether something is still to be done or waited for: a step, an answer, a compensation.
    pub fn open(&self) -> bool {
        match self.status {
            Status::Pending | Status::Confirmed => true,
            Status::Paid | Status::Completed | Status::NeedsOperator => false,
            Status::Cancelled => self.stock_held || self.money_in_the_air(),
        }
    }

    /// Whether a cancelled order may still have money held or taken that has to go back.
    pub fn money_in_the_air(&self) -> bool {
        !matches!(self.payment_status, PaymentStatus::Failed | PaymentStatus::Voided | PaymentStatus::Refunded)
    }
}
