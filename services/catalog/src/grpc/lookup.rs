//! `ProductLookupService`.

use crate::{app::App, convert};
use chassis::error::status;
use mercato_chassis as chassis;
use mercato_contracts::mercato::catalog::v1::{self as proto, product_lookup_service_server::ProductLookupService};
use tonic::{Request, Response, Status};

/// Products for other services.
pub struct Lookup(pub App);

#[tonic::async_trait]
impl ProductLookupService for Lookup {
    async fn batch_get_products(
        &self,
        request: Request<proto::BatchGetProductsRequest>,
    ) -> Result<Response<proto::BatchGetProductsResponse>, Status> {
        let ids = request.get_ref().product_ids.iter().map(|id| convert::id(id)).collect::<Result<Vec<_>, _>>().map_err(status)?;
        let (products, missing) = self.0.get_many(&ids).await.map_err(status)?;
        let missing = missing.iter().map(ToString::to_string).collect();
        Ok(Response::new(proto::BatchGetProductsResponse { products, missing }))
    }
}
