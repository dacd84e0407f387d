//! Between contract and domain.

use crate::{
    domain::{NewPayment, Status, Token, View},
    error::Error,
};
use mercato_chassis::{Fault, money::Money};
use mercato_contracts::mercato::{ordering::v1 as ordering, payment::v1 as proto, r#type::v1 as types};
use prost_types::Timestamp;
use time::OffsetDateTime;
use uuid::Uuid;

/// The payment as others see it.
pub fn payment(view: &View) -> Result<proto::Payment, Fault> {
    Ok(proto::Payment {
        id: view.id.to_string(),
        order_id: view.order_id.to_string(),
        status: status(view.status).into(),
        amount: Some(money(view, view.amount)?),
        refunded_amount: Some(money(view, view.refunded)?),
        payment_method: view.method.clone(),
        failure_reason: view.failure_reason.clone(),
        created_at: Some(timestamp(view.created_at)),
        updated_at: Some(timestamp(view.updated_at)),
    })
}

fn status(status: Status) -> proto::payment::Status {
    match status {
        Status::Pending => proto::payment::Status::Pending,
        Status::Authorized => proto::payment::Status::Authorized,
        Status::Captured => proto::payment::Status::Captured,
        Status::Failed => proto::payment::Status::Failed,
        Status::Unknown => proto::payment::Status::Unknown,
        Status::Voided => proto::payment::Status::Voided,
        Status::Refunded => proto::payment::Status::Refunded,
        Status::NeedsOperator => proto::payment::Status::NeedsOperator,
    }
}

fn money(view: &View, minor: i64) -> Result<types::Money, Fault> {
    let money = Money::from_minor(&view.currency, minor);
    Ok(money.map_err(|error| Fault::Internal(format!("payment of order {}: {error}", view.order_id)))?.into_proto())
}

fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).unwrap_or(0) }
}

/// What an order says about its payment.
///
/// # Errors
/// [`Fault::Internal`] when the order is not one; the event is then parked.
pub fn new_payment(order: Option<&ordering::Order>, token: String) -> Result<NewPayment, Fault> {
    let order = order.ok_or_else(|| Fault::Internal("the event has no order".into()))?;
    let unreadable = |what: &str| Fault::Internal(format!("order {}: {what} cannot be read", order.id));
    let total = order.total_amount.as_ref().ok_or_else(|| unreadable("total"))?;
    let total = Money::from_proto(total).map_err(|_| unreadable("total"))?;
    if total.minor() < 0 {
        return Err(unreadable("a negative total"));
    }
    Ok(NewPayment {
        order_id: Uuid::parse_str(&order.id).map_err(|_| unreadable("id"))?,
        customer_id: Uuid::parse_str(&order.user_id).map_err(|_| unreadable("customer"))?,
        amount: total.minor(),
        currency: total.currency().code().to_owned(),
        method: order.payment_method.clone(),
        token: Token(token),
    })
}

/// The order a request names; its shape was checked by the contract.
pub fn order_id(text: &str) -> Result<Uuid, Error> {
    Uuid::parse_str(text).map_err(|_| Error::NotFound { order_id: text.to_owned() })
}

/// The amount of a refund in minor units and its currency.
pub fn refund_amount(amount: Option<&types::Money>) -> Result<Option<Money>, Error> {
    let Some(amount) = amount else { return Ok(None) };
    let money = Money::from_proto(amount).map_err(|error| Error::AmountInvalid(error.to_string()))?;
    if money.minor() <= 0 {
        return Err(Error::AmountInvalid("must be more than zero".to_owned()));
    }
    Ok(Some(money))
}
