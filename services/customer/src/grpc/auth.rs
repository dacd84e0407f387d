//! `AuthService`.

use mercato_chassis::{Call, status};
use mercato_contracts::mercato::customer::v1::auth_service_server::AuthService;
use mercato_contracts::mercato::customer::v1::{LoginRequest, LogoutRequest, RefreshTokenRequest, TokenResponse};
use tonic::{Request, Response, Status};

use crate::app::sessions::{Attempt, Sessions};
use crate::convert;
use crate::error::Error;

/// Serves `AuthService`.
pub struct Auth {
    /// The use cases.
    pub sessions: Sessions,
    /// Life of an access token in seconds.
    pub token_life: i32,
}

#[tonic::async_trait]
impl AuthService for Auth {
    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<TokenResponse>, Status> {
        let call = Call::of(&request)?;
        let request = request.into_inner();
        let name = if request.email.is_empty() { request.username } else { request.email };
        if name.is_empty() {
            return Err(status(Error::RequestInvalid { field: "email", text: "email or username must be set" }));
        }
        let address = call.client_address().map(str::to_owned);
        let attempt = Attempt { name, password: request.password.into(), address, deadline: call.deadline };
        let tokens = self.sessions.login(attempt).await.map_err(status)?;
        Ok(Response::new(convert::tokens(&tokens, self.token_life)))
    }

    async fn refresh_token(&self, request: Request<RefreshTokenRequest>) -> Result<Response<TokenResponse>, Status> {
        let tokens = self.sessions.refresh(request.into_inner().refresh_token.into()).await.map_err(status)?;
        Ok(Response::new(convert::tokens(&tokens, self.token_life)))
    }

    async fn logout(&self, request: Request<LogoutRequest>) -> Result<Response<()>, Status> {
        self.sessions.logout(request.into_inner().refresh_token.into()).await.map_err(status)?;
        Ok(Response::new(()))
    }
}
