//! What ordering hears from payment.

use crate::app::App;
use crate::app::advance::{Advanced, Told, advance_all};
use crate::domain::Command;
use async_trait::async_trait;
use mercato_chassis::error::Fault;
use mercato_chassis::inbox::{Handler, Received};
use mercato_contracts::mercato::payment::v1 as payment;
use sqlx::PgConnection;
use uuid::Uuid;

/// Moves orders on when their payments do.
pub struct Payments(pub App);

#[async_trait]
impl Handler for Payments {
    fn wants(&self, kind: &str) -> bool {
        matches!(
            kind,
            "payment.authorized"
                | "payment.unknown"
                | "payment.processed"
                | "payment.failed"
                | "payment.voided"
                | "payment.refunded"
                | "payment.stuck"
        )
    }

    async fn handle(&self, tx: &mut PgConnection, event: &Received) -> Result<(), Fault> {
        self.handle_all(tx, &[event]).await
    }

    async fn handle_all(&self, tx: &mut PgConnection, events: &[&Received]) -> Result<(), Fault> {
        let mut told = Vec::with_capacity(events.len());
        for event in events {
            told.extend(command(event)?.map(|command| Told { id: event.aggregate, command, cause: event.span() }));
        }
        let ids: Vec<Uuid> = told.iter().map(|t| t.id).collect();
        for (id, advanced) in ids.iter().zip(advance_all(tx, told).await?) {
            if matches!(advanced, Advanced::Missing) {
                return Err(Fault::Internal(format!("payment speaks of the unknown order `{id}`")));
            }
        }
        Ok(())
    }

    fn committed(&self, events: &[Received]) {
        let ids: Vec<Uuid> = events.iter().map(|e| e.aggregate).collect();
        self.0.hub.touched(&ids);
    }
}

fn command(event: &Received) -> Result<Option<Command>, Fault> {
    let of = |payment: Option<payment::Payment>| payment.ok_or_else(|| Fault::Internal(format!("`{}` carries no payment", event.kind)));
    Ok(Some(match event.kind.as_str() {
        "payment.authorized" => Command::PaymentAuthorized { payment_id: of(event.decode::<payment::PaymentAuthorized>()?.payment)?.id },
        "payment.unknown" => Command::PaymentUnknown { payment_id: of(event.decode::<payment::PaymentUnknown>()?.payment)?.id },
        "payment.processed" => Command::PaymentProcessed { payment_id: of(event.decode::<payment::PaymentProcessed>()?.payment)?.id },
        "payment.failed" => {
            let failed = of(event.decode::<payment::PaymentFailed>()?.payment)?;
            Command::PaymentFailed { payment_id: failed.id, reason: failed.failure_reason }
        }
        "payment.voided" => {
            Command::PaymentReturned { payment_id: of(event.decode::<payment::PaymentVoided>()?.payment)?.id, refunded: false }
        }
        "payment.refunded" => {
            let refunded = of(event.decode::<payment::PaymentRefunded>()?.payment)?;
            // a part given back leaves the order as it is
            if refunded.status() != payment::payment::Status::Refunded {
                return Ok(None);
            }
            Command::PaymentReturned { payment_id: refunded.id, refunded: true }
        }
        "payment.stuck" => Command::PaymentStuck { step: event.decode::<payment::PaymentStuck>()?.step },
        _ => return Ok(None),
    }))
}
