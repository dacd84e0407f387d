//! `PaymentLookupService`.

use crate::{app::Payments, convert, error::Error};
use mercato_chassis::{Call, status};
use mercato_contracts::mercato::payment::v1::{self as proto, payment_lookup_service_server::PaymentLookupService};
use tonic::{Request, Response, Status};

/// Payments for other services.
pub struct Lookup(pub Payments);

impl Lookup {
    async fn get(&self, call: Call, request: proto::GetOrderPaymentRequest) -> Result<proto::Payment, Error> {
        let view = self.0.find(convert::order_id(&request.order_id)?, call.scope()?).await?;
        Ok(convert::payment(&view)?)
    }
}

#[tonic::async_trait]
impl PaymentLookupService for Lookup {
    async fn get_order_payment(&self, request: Request<proto::GetOrderPaymentRequest>) -> Result<Response<proto::Payment>, Status> {
        let call = Call::of(&request)?;
        self.get(call, request.into_inner()).await.map(Response::new).map_err(status)
    }
}
