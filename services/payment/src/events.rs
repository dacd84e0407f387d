//! What others are told.

use crate::{
    convert,
    domain::{EventKind, View},
};
use mercato_chassis::{Fault, outbox::Event};
use mercato_contracts::mercato::payment::v1 as proto;

/// The topic; its key is the order.
pub const TOPIC: &str = "payments";

/// The event for the outbox.
pub fn event(kind: EventKind, sequence: i64, view: &View) -> Result<Event, Fault> {
    let order = view.order_id;
    let payment = Some(convert::payment(view)?);
    Ok(match kind {
        EventKind::Initiated => Event::new(TOPIC, "payment.initiated", order, sequence, &proto::PaymentInitiated { payment }),
        EventKind::Authorized => Event::new(TOPIC, "payment.authorized", order, sequence, &proto::PaymentAuthorized { payment }),
        EventKind::Unknown => Event::new(TOPIC, "payment.unknown", order, sequence, &proto::PaymentUnknown { payment }),
        EventKind::Processed => Event::new(TOPIC, "payment.processed", order, sequence, &proto::PaymentProcessed { payment }),
        EventKind::Failed => Event::new(TOPIC, "payment.failed", order, sequence, &proto::PaymentFailed { payment }),
        EventKind::Voided => Event::new(TOPIC, "payment.voided", order, sequence, &proto::PaymentVoided { payment }),
        EventKind::Refunded => Event::new(TOPIC, "payment.refunded", order, sequence, &proto::PaymentRefunded { payment }),
        EventKind::Stuck(step) => {
            let stuck = proto::PaymentStuck { payment, step: step.name().to_owned() };
            Event::new(TOPIC, "payment.stuck", order, sequence, &stuck)
        }
    })
}
