//! `CustomerService`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mercato_chassis::error::Fault;
use mercato_chassis::{Call, ids, status};
use mercato_contracts::mercato::customer::v1::customer_service_server::CustomerService;
use mercato_contracts::mercato::customer::v1::{
    Customer, GetCustomerRequest, RegisterCustomerRequest, SetCustomerRolesRequest, UpdateCustomerRequest,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::app::accounts::Accounts;
use crate::app::seal::Seal;
use crate::convert;
use crate::error::Error;

/// Serves `CustomerService`.
pub struct Customers {
    /// The use cases.
    pub accounts: Accounts,
    /// Keeps passwords out of request fingerprints.
    pub seal: Seal,
}

impl Customers {
    /// What stands for a registration in its fingerprint. A fingerprint is a fast hash and is stored: with the password in it, it could be
    /// guessed a million times faster than the password hash. So the password goes in under a key the database does not hold.
    fn fingerprinted(&self, request: &RegisterCustomerRequest) -> RegisterCustomerRequest {
        let password = STANDARD.encode(self.seal.keyed_hash("mercato/customer/fingerprint", request.password.as_bytes()));
        RegisterCustomerRequest { password, ..request.clone() }
    }
}

#[tonic::async_trait]
impl CustomerService for Customers {
    async fn register_customer(&self, request: Request<RegisterCustomerRequest>) -> Result<Response<Customer>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let key = call.idempotency(&self.fingerprinted(&request)).map_err(status)?;
        let (new, password) = convert::registration(request, ids::new());
        Ok(self.accounts.register(&key, new, password, call.deadline).await.map_err(status)?.into_response())
    }

    async fn get_customer(&self, request: Request<GetCustomerRequest>) -> Result<Response<Customer>, Status> {
        let call = Call::of(&request)?;
        let id = owned(&call, &request.get_ref().customer_id).map_err(status)?;
        let scope = call.scope().map_err(status)?;
        let found = self.accounts.get(id, scope).await.map_err(status)?;
        Ok(Response::new(convert::customer(found)))
    }

    async fn update_customer(&self, request: Request<UpdateCustomerRequest>) -> Result<Response<Customer>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let key = call.idempotency(&request).map_err(status)?;
        let id = owned(&call, &request.customer_id).map_err(status)?;
        let scope = call.scope().map_err(status)?;
        let patch = convert::patch(request).map_err(status)?;
        Ok(self.accounts.update(&key, id, scope, patch).await.map_err(status)?.into_response())
    }

    async fn set_customer_roles(&self, request: Request<SetCustomerRolesRequest>) -> Result<Response<Customer>, Status> {
        let call = Call::of(&request)?;
        let admin = call.subject().map_err(status)?.id;
        let request = request.into_inner();
        let key = call.idempotency(&request).map_err(status)?;
        let id = owned(&call, &request.customer_id).map_err(status)?;
        let answer = self.accounts.set_roles(&key, id, request.roles).await.map_err(status)?;
        tracing::info!(customer_id = %id, %admin, replayed = answer.replayed, "the roles of a customer were set");
        Ok(answer.into_response())
    }
}

/// The customer a request names. Somebody else's and nobody's are the same to the caller.
fn owned(call: &Call, customer_id: &str) -> Result<Uuid, Error> {
    call.owned(customer_id).map_err(|fault| match fault {
        Fault::NotAllowed(_) => Error::CustomerNotFound { customer_id: customer_id.to_lowercase() },
        other => other.into(),
    })
}
