//! `KeyService`.

use mercato_chassis::status;
use mercato_contracts::mercato::customer::v1::key_service_server::KeyService;
use mercato_contracts::mercato::customer::v1::{GetJsonWebKeySetRequest, JsonWebKeySet};
use tonic::{Request, Response, Status};

use crate::app::keys::Keys;

/// Serves `KeyService`.
pub struct KeySets(
    /// The use cases.
    pub Keys,
);

#[tonic::async_trait]
impl KeyService for KeySets {
    async fn get_json_web_key_set(&self, _request: Request<GetJsonWebKeySetRequest>) -> Result<Response<JsonWebKeySet>, Status> {
        let json = self.0.key_set().await.map_err(status)?;
        Ok(Response::new(JsonWebKeySet { json }))
    }
}
