//! Refunds that support asks for.

use super::Payments;
use crate::{
    convert,
    domain::{Payment, RefundRefusal},
    error::Error,
    store,
};
use mercato_chassis::{
    Scope,
    idempotency::{self, Answer, Key},
    money::Money,
};
use mercato_contracts::mercato::payment::v1 as proto;
use uuid::Uuid;

impl Payments {
    /// Stores the intent of a refund once for the key; a worker asks the provider. `None` means all that is left.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotCaptured`], [`Error::RefundTooLarge`], [`Error::AmountInvalid`].
    pub async fn refund(&self, key: &Key, order: Uuid, scope: Scope, amount: Option<Money>) -> Result<Answer<proto::Payment>, Error> {
        idempotency::once(&self.db, key, move |tx| {
            Box::pin(async move {
                let missing = || Error::NotFound { order_id: order.to_string() };
                let mut unit = store::Unit::load(tx, &[order]).await?;
                let before = unit.payment(order).cloned().ok_or_else(missing)?;
                if scope.owner().is_some_and(|owner| owner != before.view.customer_id) {
                    return Err(missing());
                }
                if amount.is_some_and(|amount| amount.currency().code() != before.view.currency) {
                    return Err(Error::AmountInvalid(format!("the payment is in {}", before.view.currency)));
                }
                let wanted = amount.map(|amount| amount.minor());
                let asked = unit.change(order, |payment, now| payment.request_refund(wanted, now)).ok_or_else(missing)?;
                unit.follow(order, asked.map_err(|why| refusal(why, &before))?)?;
                let answer = convert::payment(&unit.payment(order).ok_or_else(missing)?.view)?;
                unit.save(tx).await?;
                Ok(answer)
            })
        })
        .await
    }
}

fn refusal(why: RefundRefusal, payment: &Payment) -> Error {
    let view = &payment.view;
    let text = |minor| Money::from_minor(&view.currency, minor).map_or_else(|_| minor.to_string(), |money: Money| money.to_amount());
    let order_id = view.order_id.to_string();
    match why {
        RefundRefusal::NotCaptured => Error::NotCaptured { order_id, status: view.status.name() },
        RefundRefusal::NotPositive => Error::AmountInvalid("must be more than zero".to_owned()),
        RefundRefusal::TooLarge => {
            Error::RefundTooLarge { order_id, captured: text(view.captured), refunded: text(view.refunded + payment.refunding()) }
        }
    }
}
