//! Between the domain's order and the contract's.

use crate::domain::{Address, Line, Order, PaymentStatus, Placed, Status};
use mercato_chassis::{error::Fault, money::Money};
use mercato_contracts::mercato::{ordering::v1 as proto, r#type::v1 as types};
use prost_types::Timestamp;
use time::OffsetDateTime;
use uuid::Uuid;

/// Money as the contract has it.
pub fn money_to_proto(money: &Money) -> types::Money {
    types::Money { currency_code: money.currency().code().to_owned(), amount: money.to_amount() }
}

/// Money of our own making read back; what does not parse is our fault.
pub fn money_from_proto(money: Option<&types::Money>) -> Result<Money, Fault> {
    let money = money.ok_or_else(|| Fault::Internal("a stored amount is missing".into()))?;
    Money::parse(&money.currency_code, &money.amount).map_err(|e| Fault::Internal(format!("a stored amount is damaged: {e}")))
}

/// A time as the contract has it.
pub fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).expect("nanoseconds are below 10^9") }
}

fn time(at: Option<&Timestamp>) -> Result<OffsetDateTime, Fault> {
    let at = at.ok_or_else(|| Fault::Internal("a stored time is missing".into()))?;
    let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|e| Fault::Internal(format!("a stored time is damaged: {e}")))
}

/// An address as sent.
pub fn address_from_proto(address: Option<types::Address>) -> Address {
    let a = address.unwrap_or_default();
    Address { street: a.street, city: a.city, state: a.state, zip_code: a.zip_code, country_code: a.country_code }
}

fn address_to_proto(a: &Address) -> types::Address {
    types::Address {
        street: a.street.clone(),
        city: a.city.clone(),
        state: a.state.clone(),
        zip_code: a.zip_code.clone(),
        country_code: a.country_code.clone(),
    }
}

fn line_to_proto(index: usize, line: &Line) -> proto::OrderItem {
    proto::OrderItem {
        id: (index + 1).to_string(),
        product_id: line.product_id.to_string(),
        name: line.name.clone(),
        quantity: line.quantity,
        price: Some(money_to_proto(&line.price)),
        line_total: Some(money_to_proto(&line.total)),
    }
}

fn line_from_proto(item: &proto::OrderItem) -> Result<Line, Fault> {
    Ok(Line {
        product_id: uuid(&item.product_id)?,
        name: item.name.clone(),
        quantity: item.quantity,
        price: money_from_proto(item.price.as_ref())?,
        total: money_from_proto(item.line_total.as_ref())?,
    })
}

/// An id of our own making read back.
pub fn uuid(text: &str) -> Result<Uuid, Fault> {
    Uuid::parse_str(text).map_err(|e| Fault::Internal(format!("a stored id is damaged: {e}")))
}

/// A version as the contract has it; an order has a handful.
pub fn version(version: i64) -> i32 {
    i32::try_from(version).unwrap_or(i32::MAX)
}

/// The order as the contract has it.
pub fn order_to_proto(order: &Order) -> proto::Order {
    proto::Order {
        id: order.placed.id.to_string(),
        user_id: order.placed.customer_id.to_string(),
        status: order.status as i32,
        payment_status: order.payment_status as i32,
        items: order.placed.lines.iter().enumerate().map(|(i, l)| line_to_proto(i, l)).collect(),
        total_amount: Some(money_to_proto(&order.placed.total)),
        shipping_address: Some(address_to_proto(&order.placed.address)),
        payment_method: order.placed.payment_method.clone(),
        status_reason: order.reason.clone(),
        version: version(order.version),
        created_at: Some(timestamp(order.created_at)),
        updated_at: Some(timestamp(order.updated_at)),
    }
}

/// What an order began with, read back from the contract's form.
pub fn placed_from_proto(order: &proto::Order) -> Result<Placed, Fault> {
    Ok(Placed {
        id: uuid(&order.id)?,
        customer_id: uuid(&order.user_id)?,
        lines: order.items.iter().map(line_from_proto).collect::<Result<_, _>>()?,
        total: money_from_proto(order.total_amount.as_ref())?,
        address: address_from_proto(order.shipping_address.clone()),
        payment_method: order.payment_method.clone(),
    })
}

/// The order read back from its snapshot and the two facts the contract does not show.
pub fn order_from_proto(order: &proto::Order, stock_held: bool, payment_id: String) -> Result<Order, Fault> {
    Ok(Order {
        placed: placed_from_proto(order)?,
        status: status(order.status)?,
        payment_status: payment_status(order.payment_status)?,
        reason: order.status_reason.clone(),
        payment_id,
        stock_held,
        version: i64::from(order.version),
        created_at: time(order.created_at.as_ref())?,
        updated_at: time(order.updated_at.as_ref())?,
    })
}

fn status(number: i32) -> Result<Status, Fault> {
    use Status::*;
    [Pending, Confirmed, Paid, Completed, Cancelled, NeedsOperator]
        .into_iter()
        .find(|s| *s as i32 == number)
        .ok_or_else(|| Fault::Internal(format!("a stored order has the unknown status {number}")))
}

fn payment_status(number: i32) -> Result<PaymentStatus, Fault> {
    use PaymentStatus::*;
    [Pending, Authorized, Processed, Failed, Unknown, Voided, Refunded]
        .into_iter()
        .find(|s| *s as i32 == number)
        .ok_or_else(|| Fault::Internal(format!("a stored order has the unknown payment status {number}")))
}

/// The name JSON callers read.
pub fn status_name(status: Status) -> &'static str {
    match status {
        Status::Pending => "PENDING",
        Status::Confirmed => "CONFIRMED",
        Status::Paid => "PAID",
        Status::Completed => "COMPLETED",
        Status::Cancelled => "CANCELLED",
        Status::NeedsOperator => "NEEDS_OPERATOR",
    }
}
