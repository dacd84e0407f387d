//! Domain events as the contract's events: what is stored in `order_event`, published on topic `orders`, and told in the timeline.

use crate::convert::{order_to_proto, placed_from_proto};
use crate::domain::{Event, Order};
use mercato_chassis::error::Fault;
use mercato_contracts::mercato::ordering::v1 as proto;
use prost::Message;

/// The topic of all events of this service.
pub const TOPIC: &str = "orders";

/// The event's dotted name, on the topic and in the timeline.
pub fn kind(event: &Event) -> &'static str {
    match event {
        Event::Created { .. } => "order.created",
        Event::PaymentAuthorized { .. } => "order.payment_authorized",
        Event::PaymentUnknown { .. } => "order.payment_unknown",
        Event::Confirmed => "order.confirmed",
        Event::PaymentProcessed { .. } => "order.payment_processed",
        Event::PaymentFailed { .. } => "order.payment_failed",
        Event::Cancelled { .. } => "order.cancelled",
        Event::PaymentReturned { .. } => "order.payment_returned",
        Event::StockReleased => "order.stock_released",
        Event::Completed => "order.completed",
        Event::Failed { .. } => "order.failed",
    }
}

/// The event's payload; `after` is the order with the event applied.
pub fn payload(event: &Event, after: &Order) -> Vec<u8> {
    let order = || Some(order_to_proto(after));
    match event.clone() {
        Event::Created { payment_token, .. } => proto::OrderCreated { order: order(), payment_token }.encode_to_vec(),
        Event::PaymentAuthorized { payment_id } => proto::OrderPaymentAuthorized { payment_id }.encode_to_vec(),
        Event::PaymentUnknown { payment_id } => proto::OrderPaymentUnknown { payment_id }.encode_to_vec(),
        Event::Confirmed => proto::OrderConfirmed { order: order() }.encode_to_vec(),
        Event::PaymentProcessed { payment_id } => proto::OrderPaymentProcessed { payment_id, order: order() }.encode_to_vec(),
        Event::PaymentFailed { payment_id, reason } => proto::OrderPaymentFailed { payment_id, reason }.encode_to_vec(),
        Event::Cancelled { reason } => proto::OrderCancelled { reason, order: order() }.encode_to_vec(),
        Event::PaymentReturned { payment_id, refunded } => proto::OrderPaymentReturned { payment_id, refunded }.encode_to_vec(),
        Event::StockReleased => proto::OrderStockReleased {}.encode_to_vec(),
        Event::Completed => proto::OrderCompleted { order: order() }.encode_to_vec(),
        Event::Failed { reason } => proto::OrderFailed { reason, order: order() }.encode_to_vec(),
    }
}

/// A stored event read back.
pub fn decode(kind: &str, payload: &[u8]) -> Result<Event, Fault> {
    Ok(match kind {
        "order.created" => {
            let created: proto::OrderCreated = read(payload)?;
            let order = created.order.ok_or_else(|| Fault::Internal("a stored order.created has no order".into()))?;
            Event::Created { placed: placed_from_proto(&order)?, payment_token: created.payment_token }
        }
        "order.payment_authorized" => Event::PaymentAuthorized { payment_id: read::<proto::OrderPaymentAuthorized>(payload)?.payment_id },
        "order.payment_unknown" => Event::PaymentUnknown { payment_id: read::<proto::OrderPaymentUnknown>(payload)?.payment_id },
        "order.confirmed" => Event::Confirmed,
        "order.payment_processed" => Event::PaymentProcessed { payment_id: read::<proto::OrderPaymentProcessed>(payload)?.payment_id },
        "order.payment_failed" => {
            let failed: proto::OrderPaymentFailed = read(payload)?;
            Event::PaymentFailed { payment_id: failed.payment_id, reason: failed.reason }
        }
        "order.cancelled" => Event::Cancelled { reason: read::<proto::OrderCancelled>(payload)?.reason },
        "order.payment_returned" => {
            let returned: proto::OrderPaymentReturned = read(payload)?;
            Event::PaymentReturned { payment_id: returned.payment_id, refunded: returned.refunded }
        }
        "order.stock_released" => Event::StockReleased,
        "order.completed" => Event::Completed,
        "order.failed" => Event::Failed { reason: read::<proto::OrderFailed>(payload)?.reason },
        other => return Err(Fault::Internal(format!("a stored event has the unknown kind `{other}`"))),
    })
}

fn read<M: Message + Default>(payload: &[u8]) -> Result<M, Fault> {
    M::decode(payload).map_err(|e| Fault::Internal(format!("a stored event is damaged: {e}")))
}

/// The event in words, with its details, for the timeline.
pub fn describe(event: &Event) -> (&'static str, Vec<(&'static str, String)>) {
    match event {
        Event::Created { placed, .. } => (
            "the order was placed and its stock is held",
            vec![("total", placed.total.to_amount()), ("currency", placed.total.currency().code().to_owned())],
        ),
        Event::PaymentAuthorized { payment_id } => ("the payment is authorised", vec![("paymentId", payment_id.clone())]),
        Event::PaymentUnknown { payment_id } => {
            ("the payment provider did not tell the outcome, it is being looked up", vec![("paymentId", payment_id.clone())])
        }
        Event::Confirmed => ("the stock is committed and the order is confirmed", vec![]),
        Event::PaymentProcessed { payment_id } => ("the payment is captured", vec![("paymentId", payment_id.clone())]),
        Event::PaymentFailed { payment_id, reason } => {
            ("the payment was refused", vec![("paymentId", payment_id.clone()), ("reason", reason.clone())])
        }
        Event::Cancelled { reason } => ("the order was cancelled", vec![("reason", reason.clone())]),
        Event::PaymentReturned { payment_id, refunded } => (
            if *refunded { "the money was given back" } else { "the payment's hold was given back" },
            vec![("paymentId", payment_id.clone())],
        ),
        Event::StockReleased => ("the stock was given back", vec![]),
        Event::Completed => ("the order was delivered", vec![]),
        Event::Failed { reason } => ("the order needs a person to look at it", vec![("reason", reason.clone())]),
    }
}
