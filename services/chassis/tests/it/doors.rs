//! Services that do what a test tells them, behind the real policy of their contracts.

use futures_util::{Stream, future::BoxFuture};
use mercato_chassis::{Call, Context, Mounted, Refusal, Role, status};
use mercato_contracts::mercato::{
    catalog::v1::{
        BatchGetProductsRequest, BatchGetProductsResponse, CreateProductRequest, DeleteProductRequest, GetProductRequest,
        ListCategoriesRequest, ListCategoriesResponse, ListProductsRequest, ListProductsResponse, Product, UpdateProductRequest,
        product_lookup_service_server::{ProductLookupService, ProductLookupServiceServer},
        product_service_client::ProductServiceClient,
        product_service_server::{ProductService, ProductServiceServer},
    },
    customer::v1::{
        Customer, GetCustomerRequest, RegisterCustomerRequest, SetCustomerRolesRequest, UpdateCustomerRequest,
        customer_service_server::{CustomerService, CustomerServiceServer},
    },
    ordering::v1::{
        CancelOrderRequest, GetOrderRequest, GetOrderTimelineRequest, ListOrdersRequest, ListOrdersResponse, Order, OrderTimeline,
        PlaceOrderRequest, StreamEnd, WatchOrderRequest, WatchOrderResponse,
        order_service_server::{OrderService, OrderServiceServer},
        watch_order_response::Event,
    },
};
use mercato_testkit::{Fake, Patient, Sandbox};
use std::{pin::Pin, sync::Arc};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait, transport::Channel};

pub const ID: &str = "01920000-0000-7000-8000-000000000001";
/// The order whose stream panics.
pub const PANICS: &str = "01920000-0000-7000-8000-000000000000";
/// The order whose stream does not end when it is told to.
pub const STUCK: &str = "01920000-0000-7000-8000-00000000ffff";
/// A stream that panics waits for a permit: until its client has seen what came before.
pub static MAY_PANIC: Semaphore = Semaphore::const_new(0);

type OnGet = Arc<dyn Fn(Call) -> BoxFuture<'static, Result<Product, Status>> + Send + Sync>;

/// All services of the tests.
#[derive(Clone)]
pub struct Doors {
    on_get: OnGet,
    stop: CancellationToken,
}

/// A role `name` with all services, whose GetProduct does what the test says.
pub fn role<R>(name: &'static str, on_get: impl Fn(Call) -> R + Send + Sync + 'static) -> Box<dyn Role>
where
    R: Future<Output = Result<Product, Status>> + Send + 'static,
{
    let on_get: OnGet = Arc::new(move |call| Box::pin(on_get(call)));
    Fake::role(name, move |ctx, mounted| mount(ctx, mounted, on_get.clone()))
}

pub fn mount(ctx: &Context, mounted: &mut Mounted, on_get: OnGet) {
    let doors = Doors { on_get, stop: ctx.tasks.token() };
    mounted.add(ProductServiceServer::new(doors.clone()));
    mounted.add(ProductLookupServiceServer::new(doors.clone()));
    mounted.add(CustomerServiceServer::new(doors.clone()));
    mounted.add(OrderServiceServer::new(doors));
}

/// A sandbox whose GetProduct answers at once.
pub async fn plain() -> Sandbox {
    Sandbox::of(vec![role("doors", |_| async { Ok(Product::default()) })]).start().await.unwrap()
}

pub fn products(sandbox: &Sandbox) -> ProductServiceClient<Patient> {
    ProductServiceClient::new(sandbox.patient())
}

/// A client that calls once.
pub fn products_once(sandbox: &Sandbox) -> ProductServiceClient<Channel> {
    ProductServiceClient::new(sandbox.channel())
}

pub fn get() -> GetProductRequest {
    GetProductRequest { product_id: ID.into() }
}

/// Code and reason of a refusal.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (tonic::Code, String) {
    let refusal = Refusal::of(&result.unwrap_err());
    (refusal.code, refusal.reason)
}

fn absent<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not part of these tests"))
}

#[async_trait]
impl ProductService for Doors {
    async fn get_product(&self, request: Request<GetProductRequest>) -> Result<Response<Product>, Status> {
        (self.on_get)(Call::of(&request)?).await.map(Response::new)
    }

    async fn create_product(&self, request: Request<CreateProductRequest>) -> Result<Response<Product>, Status> {
        let call = Call::of(&request)?;
        let key = call.idempotency(request.get_ref()).map_err(status)?;
        Ok(Response::new(Product { name: request.into_inner().name, id: key.derived_uuid("product").to_string(), ..Product::default() }))
    }

    async fn list_products(&self, _: Request<ListProductsRequest>) -> Result<Response<ListProductsResponse>, Status> {
        absent()
    }

    async fn update_product(&self, _: Request<UpdateProductRequest>) -> Result<Response<Product>, Status> {
        absent()
    }

    async fn delete_product(&self, _: Request<DeleteProductRequest>) -> Result<Response<()>, Status> {
        absent()
    }

    async fn list_categories(&self, _: Request<ListCategoriesRequest>) -> Result<Response<ListCategoriesResponse>, Status> {
        absent()
    }
}

#[async_trait]
impl ProductLookupService for Doors {
    async fn batch_get_products(&self, request: Request<BatchGetProductsRequest>) -> Result<Response<BatchGetProductsResponse>, Status> {
        let call = Call::of(&request)?;
        Ok(Response::new(BatchGetProductsResponse { products: vec![], missing: vec![format!("{:?}", call.caller)] }))
    }
}

#[async_trait]
impl CustomerService for Doors {
    async fn get_customer(&self, request: Request<GetCustomerRequest>) -> Result<Response<Customer>, Status> {
        let id = Call::of(&request)?.owned(&request.get_ref().customer_id).map_err(status)?;
        Ok(Response::new(Customer { id: id.to_string(), ..Customer::default() }))
    }

    /// Forgets to ask whose profile it is.
    async fn update_customer(&self, request: Request<UpdateCustomerRequest>) -> Result<Response<Customer>, Status> {
        Ok(Response::new(Customer { id: request.into_inner().customer_id, ..Customer::default() }))
    }

    async fn register_customer(&self, _: Request<RegisterCustomerRequest>) -> Result<Response<Customer>, Status> {
        absent()
    }

    async fn set_customer_roles(&self, _: Request<SetCustomerRolesRequest>) -> Result<Response<Customer>, Status> {
        absent()
    }
}

#[async_trait]
impl OrderService for Doors {
    type WatchOrderStream = Pin<Box<dyn Stream<Item = Result<WatchOrderResponse, Status>> + Send>>;

    /// One heartbeat, then silence until the process stops, then an end; [`PANICS`] and [`STUCK`] do what they are called.
    async fn watch_order(&self, request: Request<WatchOrderRequest>) -> Result<Response<Self::WatchOrderStream>, Status> {
        let (stop, order) = (self.stop.clone(), request.into_inner().order_id);
        let stream = futures_util::stream::unfold(0, move |step| {
            let (stop, order) = (stop.clone(), order.clone());
            async move {
                let event = match (step, order.as_str()) {
                    (0, _) => Event::Heartbeat(Default::default()),
                    (1, PANICS) => {
                        drop(MAY_PANIC.acquire().await);
                        panic!("a stream of the tests panics")
                    }
                    (1, STUCK) => std::future::pending().await,
                    (1, _) => {
                        stop.cancelled().await;
                        Event::End(StreamEnd::default())
                    }
                    _ => return None,
                };
                Some((Ok(WatchOrderResponse { event: Some(event) }), step + 1))
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn place_order(&self, _: Request<PlaceOrderRequest>) -> Result<Response<Order>, Status> {
        absent()
    }

    async fn get_order(&self, _: Request<GetOrderRequest>) -> Result<Response<Order>, Status> {
        absent()
    }

    async fn list_orders(&self, _: Request<ListOrdersRequest>) -> Result<Response<ListOrdersResponse>, Status> {
        absent()
    }

    async fn cancel_order(&self, _: Request<CancelOrderRequest>) -> Result<Response<Order>, Status> {
        absent()
    }

    async fn get_order_timeline(&self, _: Request<GetOrderTimelineRequest>) -> Result<Response<OrderTimeline>, Status> {
        absent()
    }
}
