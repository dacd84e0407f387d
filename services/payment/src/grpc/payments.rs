//! `PaymentService`.

use crate::{
    app::{Payments, Webhook},
    convert,
    error::Error,
};
use mercato_chassis::{Call, clock, status};
use mercato_contracts::mercato::payment::v1::{self as proto, payment_service_server::PaymentService};
use secrecy::SecretString;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Payments for customers, support and providers.
pub struct Service {
    payments: Payments,
    webhook_secrets: Arc<[SecretString]>,
}

impl Service {
    /// `webhook_secrets` are those that webhooks may be signed with; none refuses all.
    pub fn new(payments: Payments, webhook_secrets: Vec<SecretString>) -> Self {
        Self { payments, webhook_secrets: webhook_secrets.into() }
    }

    async fn get(&self, call: Call, request: proto::GetPaymentRequest) -> Result<proto::Payment, Error> {
        let view = self.payments.find(convert::order_id(&request.order_id)?, call.scope()?).await?;
        Ok(convert::payment(&view)?)
    }

    async fn refund(&self, call: Call, request: proto::RefundPaymentRequest) -> Result<Response<proto::Payment>, Error> {
        let key = call.idempotency(&request)?;
        let order = convert::order_id(&request.order_id)?;
        let amount = convert::refund_amount(request.amount.as_ref())?;
        Ok(self.payments.refund(&key, order, call.scope()?, amount).await?.into_response())
    }

    async fn receive(&self, call: Call, request: proto::ReceiveWebhookRequest) -> Result<(), Error> {
        if request.provider != self.payments.provider.name() {
            return Err(Error::ProviderUnknown(request.provider));
        }
        let body = request.payload.ok_or(Error::WebhookUnreadable)?.data;
        let signature = call.metadata("x-signature");
        let opened = Webhook::open(&self.webhook_secrets, signature, &body, clock::unix_seconds());
        let webhook = opened.inspect_err(|_| crate::metrics::WEBHOOKS.one(["refused"]))?;
        self.payments.take(webhook).await
    }
}

#[tonic::async_trait]
impl PaymentService for Service {
    async fn get_payment(&self, request: Request<proto::GetPaymentRequest>) -> Result<Response<proto::Payment>, Status> {
        let call = Call::of(&request)?;
        self.get(call, request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn refund_payment(&self, request: Request<proto::RefundPaymentRequest>) -> Result<Response<proto::Payment>, Status> {
        let call = Call::of(&request)?;
        self.refund(call, request.into_inner()).await.map_err(status)
    }

    async fn receive_webhook(&self, request: Request<proto::ReceiveWebhookRequest>) -> Result<Response<()>, Status> {
        let call = Call::of(&request)?;
        self.receive(call, request.into_inner()).await.map(Response::new).map_err(status)
    }
}
