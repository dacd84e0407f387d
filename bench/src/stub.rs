//! The echo: a tonic server that answers every question for one product or for many with the same message and knows nothing else. What it
//! costs is the floor of any product that is read through the edge.

use anyhow::Context;
use mercato_contracts::mercato::catalog::v1::product_lookup_service_server::{ProductLookupService, ProductLookupServiceServer};
use mercato_contracts::mercato::catalog::v1::product_service_server::{ProductService, ProductServiceServer};
use mercato_contracts::mercato::catalog::v1::{
    BatchGetProductsRequest, BatchGetProductsResponse, CreateProductRequest, DeleteProductRequest, GetProductRequest,
    ListCategoriesRequest, ListCategoriesResponse, ListProductsRequest, ListProductsResponse, Product, UpdateProductRequest,
};
use prost::Message;
use std::net::SocketAddr;
use std::path::Path;
use tokio::io::AsyncReadExt;
use tonic::{Request, Response, Status};

#[derive(Clone)]
struct Echo {
    one: Product,
    many: Vec<Product>,
}

#[tonic::async_trait]
impl ProductService for Echo {
    async fn get_product(&self, _: Request<GetProductRequest>) -> Result<Response<Product>, Status> {
        Ok(Response::new(self.one.clone()))
    }

    async fn list_products(&self, _: Request<ListProductsRequest>) -> Result<Response<ListProductsResponse>, Status> {
        Ok(Response::new(ListProductsResponse { products: self.many.clone(), ..ListProductsResponse::default() }))
    }

    async fn create_product(&self, _: Request<CreateProductRequest>) -> Result<Response<Product>, Status> {
        Err(unknown())
    }

    async fn update_product(&self, _: Request<UpdateProductRequest>) -> Result<Response<Product>, Status> {
        Err(unknown())
    }

    async fn delete_product(&self, _: Request<DeleteProductRequest>) -> Result<Response<()>, Status> {
        Err(unknown())
    }

    async fn list_categories(&self, _: Request<ListCategoriesRequest>) -> Result<Response<ListCategoriesResponse>, Status> {
        Err(unknown())
    }
}

#[tonic::async_trait]
impl ProductLookupService for Echo {
    async fn batch_get_products(&self, _: Request<BatchGetProductsRequest>) -> Result<Response<BatchGetProductsResponse>, Status> {
        Ok(Response::new(BatchGetProductsResponse { products: self.many.clone(), missing: Vec::new() }))
    }
}

fn unknown() -> Status {
    Status::unimplemented("the echo only reads products")
}

/// Serves until standard input ends, which it does when whoever started it is gone. As many threads as the shop has.
pub fn main(addr: SocketAddr, products: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(products).with_context(|| format!("cannot read {}", products.display()))?;
    let many = ListProductsResponse::decode(bytes.as_slice()).context("not a list of products")?.products;
    let echo = Echo { one: many.first().context("no product")?.clone(), many };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async move {
        let (health, service) = tonic_health::server::health_reporter();
        health.set_serving::<ProductServiceServer<Echo>>().await;
        let parent = async {
            // whatever ends the reading ends the echo
            drop(tokio::io::stdin().read_to_end(&mut Vec::new()).await);
        };
        let lookup = ProductLookupServiceServer::new(echo.clone());
        let server =
            tonic::transport::Server::builder().add_service(service).add_service(ProductServiceServer::new(echo)).add_service(lookup);
        tokio::select! {
            served = server.serve(addr) => served.context("the echo cannot serve"),
            () = parent => Ok(()),
        }
    })
}
