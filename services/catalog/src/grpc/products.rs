//! `ProductService`.

use crate::{app::App, convert, domain::listing::page_size};
use chassis::{call::Call, error::status};
use mercato_chassis as chassis;
use mercato_contracts::mercato::catalog::v1::{self as proto, product_service_server::ProductService};
use tonic::{Request, Response, Status};

/// Products and categories for everybody, and their upkeep for staff.
pub struct Products(pub App);

#[tonic::async_trait]
impl ProductService for Products {
    async fn get_product(&self, request: Request<proto::GetProductRequest>) -> Result<Response<proto::Product>, Status> {
        let id = convert::id(&request.get_ref().product_id).map_err(status)?;
        self.0.get(id).await.map(Response::new).map_err(status)
    }

    async fn list_products(&self, request: Request<proto::ListProductsRequest>) -> Result<Response<proto::ListProductsResponse>, Status> {
        let request = request.get_ref();
        let (filter, sort) = convert::listing(request, self.0.currency).map_err(status)?;
        let (products, next_page_token) =
            self.0.list(&filter, sort, page_size(request.page_size), &request.page_token).await.map_err(status)?;
        Ok(Response::new(proto::ListProductsResponse { products, next_page_token }))
    }

    async fn create_product(&self, request: Request<proto::CreateProductRequest>) -> Result<Response<proto::Product>, Status> {
        let key = Call::of(&request)?.idempotency(request.get_ref()).map_err(status)?;
        let details = convert::details(request.into_inner(), self.0.currency).map_err(status)?;
        Ok(self.0.create(&key, details).await.map_err(status)?.into_response())
    }

    async fn update_product(&self, request: Request<proto::UpdateProductRequest>) -> Result<Response<proto::Product>, Status> {
        let key = Call::of(&request)?.idempotency(request.get_ref()).map_err(status)?;
        let request = request.into_inner();
        let id = convert::id(&request.product_id).map_err(status)?;
        let mut patch = request.product.unwrap_or_default();
        let seen = std::mem::take(&mut patch.etag);
        let change = convert::change(patch, request.update_mask, self.0.currency).map_err(status)?;
        Ok(self.0.update(&key, id, seen, change).await.map_err(status)?.into_response())
    }

    async fn delete_product(&self, request: Request<proto::DeleteProductRequest>) -> Result<Response<()>, Status> {
        let key = Call::of(&request)?.idempotency(request.get_ref()).map_err(status)?;
        let request = request.into_inner();
        let id = convert::id(&request.product_id).map_err(status)?;
        Ok(self.0.delete(&key, id, request.etag).await.map_err(status)?.into_response())
    }

    async fn list_categories(
        &self,
        _request: Request<proto::ListCategoriesRequest>,
    ) -> Result<Response<proto::ListCategoriesResponse>, Status> {
        self.0.categories().await.map(Response::new).map_err(status)
    }
}
