//! What a caller sees when the codec refuses a request, over a real connection.

use mercato_contracts::{
    codec::Checked,
    mercato::catalog::v1::{
        BatchGetProductsRequest, BatchGetProductsResponse, CreateProductRequest,
        product_lookup_service_client::ProductLookupServiceClient,
        product_lookup_service_server::{ProductLookupService, ProductLookupServiceServer},
    },
    mercato::r#type::v1::Attribute,
    validate,
};
use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    codegen::http,
    server::{ClientStreamingService, Grpc, NamedService},
    transport::Channel,
};
use tonic_types::StatusExt;

const ID: &str = "0198f2c4-7a1b-7c3d-8e4f-000000000001";
const PATH: &str = "/mercato.catalog.v1.ProductLookupService/BatchGetProducts";

#[derive(Default, Clone)]
struct Service {
    calls: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl ProductLookupService for Service {
    async fn batch_get_products(&self, request: Request<BatchGetProductsRequest>) -> Result<Response<BatchGetProductsResponse>, Status> {
        self.calls.fetch_add(1, SeqCst);
        Ok(Response::new(BatchGetProductsResponse { products: vec![], missing: request.into_inner().product_ids }))
    }
}

async fn start() -> (Service, Import, Channel) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (service, import) = (Service::default(), Import::default());
    let server =
        tonic::transport::Server::builder().add_service(ProductLookupServiceServer::new(service.clone())).add_service(import.clone());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect().await.expect("a server");
    (service, import, channel)
}

fn ask(ids: &[&str]) -> BatchGetProductsRequest {
    BatchGetProductsRequest { product_ids: ids.iter().map(ToString::to_string).collect() }
}

#[tokio::test]
async fn a_broken_rule_never_reaches_the_handler_and_the_connection_lives() {
    let (service, _, channel) = start().await;
    let mut client = ProductLookupServiceClient::new(channel);
    let status = client.batch_get_products(ask(&[ID, "7", ""])).await.expect_err("two bad ids");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "productIds[1]: must be a valid UUID (and 1 more)");
    let details = status.get_error_details();
    let found: Vec<_> =
        details.bad_request().expect("details").field_violations.iter().map(|v| (v.field.as_str(), v.reason.as_str())).collect();
    assert_eq!(found, [("productIds[1]", "STRING_UUID"), ("productIds[2]", "STRING_UUID_EMPTY")]);
    let info = details.error_info().expect("a reason");
    assert_eq!((info.reason.as_str(), info.domain.as_str(), info.metadata["violations"].as_str()), ("REQUEST_INVALID", "mercato", "2"));
    assert_eq!(service.calls.load(SeqCst), 0, "the handler was not called");
    let answer = client.batch_get_products(ask(&[ID])).await.expect("a good request").into_inner();
    assert_eq!((answer.missing.as_slice(), service.calls.load(SeqCst)), ([ID.to_string()].as_slice(), 1));
}

/// Bytes that prost refuses: the plain codec says INTERNAL.
#[tokio::test]
async fn malformed_bytes_are_the_callers_fault() {
    let (_, _, channel) = start().await;
    for (what, bytes) in [("not UTF-8", &[0x0a, 2, 0xff, 0xfe][..]), ("truncated", &[0x0a, 9, b'a']), ("wrong wire type", &[0x08, 1])] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.expect("a connection");
        let path = http::uri::PathAndQuery::from_static(PATH);
        let status = grpc.unary(Request::new(bytes.to_vec()), path, Raw).await.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
        assert_eq!(status.get_error_details().error_info().expect("a reason").reason, "REQUEST_INVALID");
    }
}

/// Details must fit the header limits on the way.
#[tokio::test]
async fn many_violations_stay_small() {
    let (_, _, channel) = start().await;
    let mut client = ProductLookupServiceClient::new(channel);
    let status = client.batch_get_products(ask(&["x"; 201])).await.expect_err("too many");
    assert_eq!(status.message(), "productIds: value must contain no more than 200 item(s)", "a list that is too long is not looked into");
    let status = client.batch_get_products(ask(&["x"; 200])).await.expect_err("all bad");
    assert_eq!(status.get_error_details().bad_request().expect("details").field_violations.len(), 20);
    assert!(status.message().ends_with("(and 199 more)"));
    assert!(status.details().len() * 4 / 3 < 7_000, "{} bytes of details", status.details().len());
    client.batch_get_products(ask(&[ID])).await.expect("the connection lives");
}

#[test]
fn a_path_is_cut_between_characters_and_values_are_never_told() {
    let key = "ä".repeat(200);
    let mut violations = validate::Violations::default();
    violations.add(&validate::Path::ROOT.field("labels").key(&key), "string.max_len", "too long");
    assert!(violations.list[0].field.len() <= validate::Violations::FIELD);

    let mut product = CreateProductRequest { name: "s3cret".repeat(100), category: "S3CRET".into(), ..Default::default() };
    product.attributes = vec![Attribute { name: String::new(), value: "s3cret".repeat(100) }];
    let status = validate::check(&product).expect_err("broken").into_status();
    assert!(!format!("{status:?}").to_lowercase().contains("s3cret"));
    let told: Vec<_> =
        status.get_error_details().bad_request().expect("details").field_violations.iter().map(|v| v.field.clone()).collect();
    assert_eq!(told, ["name", "price", "category", "attributes[0].name", "attributes[0].value"]);
}

#[tokio::test]
async fn a_refused_stream_stays_refused() {
    let (_, import, channel) = start().await;
    let good = ask(&[ID]);
    let messages = [vec![good.clone(), good.clone(), ask(&[])], vec![good; 20_000]].concat();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("a connection");
    let path = http::uri::PathAndQuery::from_static("/test.Import/Run");
    let codec = tonic_prost::ProstCodec::<BatchGetProductsRequest, BatchGetProductsResponse>::default();
    let status = grpc.client_streaming(Request::new(tokio_stream::iter(messages)), path, codec).await.expect_err("the third is bad");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(import.taken.load(SeqCst), 2);
    assert_eq!(*import.after.lock().expect("no panic"), [Some(Code::InvalidArgument); 3]);
}

/// A client-streaming method with the checking codec; the contracts have none.
#[derive(Default, Clone)]
struct Import {
    taken: Arc<AtomicUsize>,
    /// What reading on after the refusal gave.
    after: Arc<Mutex<Vec<Option<Code>>>>,
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl ClientStreamingService<BatchGetProductsRequest> for Import {
    type Response = BatchGetProductsResponse;
    type Future = Answer<Result<Response<BatchGetProductsResponse>, Status>>;

    fn call(&mut self, request: Request<Streaming<BatchGetProductsRequest>>) -> Self::Future {
        let import = self.clone();
        Box::pin(async move {
            let mut messages = request.into_inner();
            loop {
                match messages.message().await {
                    Ok(Some(_)) => import.taken.fetch_add(1, SeqCst),
                    Ok(None) => return Ok(Response::new(BatchGetProductsResponse::default())),
                    Err(status) => {
                        // A handler that does not stop at the error must not get at anything.
                        for _ in 0..3 {
                            let next = messages.message().await.err().map(|s| s.code());
                            import.after.lock().expect("no panic").push(next);
                        }
                        return Err(status);
                    }
                };
            }
        })
    }
}

impl NamedService for Import {
    const NAME: &'static str = "test.Import";
}

impl tonic::codegen::Service<http::Request<Body>> for Import {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let import = self.clone();
        Box::pin(async move {
            let codec = Checked::<BatchGetProductsResponse, BatchGetProductsRequest>::default();
            Ok(Grpc::new(codec).client_streaming(import, request).await)
        })
    }
}

/// Sends bytes as they are.
#[derive(Clone, Copy)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buf: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buf, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buf: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        use bytes::Buf;
        Ok(Some(buf.copy_to_bytes(buf.remaining()).to_vec()))
    }
}
