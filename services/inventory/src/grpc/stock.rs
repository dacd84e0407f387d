//! `mercato.inventory.v1.StockService`.

use crate::{app::StockKeeper, convert, error::Error};
use chassis::{call::Call, error::status, page_token::PageTokens};
use mercato_chassis as chassis;
use mercato_contracts::mercato::inventory::v1::{
    GetStockRequest, ListStockChangesRequest, ListStockChangesResponse, ProductStock, SetStockRequest, Stock,
    stock_service_server::StockService,
};
use tonic::{Request, Response, Status};

const DEFAULT_PAGE: usize = 50;
const LARGEST_PAGE: usize = 200;

/// Serves stock to everybody.
pub struct StockApi {
    /// What it serves.
    pub keeper: StockKeeper,
    /// Makes and reads page tokens.
    pub page_tokens: PageTokens,
}

#[tonic::async_trait]
impl StockService for StockApi {
    async fn get_stock(&self, request: Request<GetStockRequest>) -> Result<Response<ProductStock>, Status> {
        let product = convert::id(&request.get_ref().product_id).map_err(status)?;
        self.keeper.get(product).await.map(Response::new).map_err(status)
    }

    async fn set_stock(&self, request: Request<SetStockRequest>) -> Result<Response<Stock>, Status> {
        let call = Call::of(&request)?;
        let request = request.get_ref();
        let key = call.idempotency(request).map_err(status)?;
        let product = convert::id(&request.product_id).map_err(status)?;
        let answer = self.keeper.set(&key, product, &request.warehouse_id, i64::from(request.stock_level)).await.map_err(status)?;
        Ok(answer.into_response())
    }

    async fn list_stock_changes(&self, request: Request<ListStockChangesRequest>) -> Result<Response<ListStockChangesResponse>, Status> {
        let request = request.get_ref();
        let product = convert::id(&request.product_id).map_err(status)?;
        let (id, limit) = (product.to_string(), page_size(request.page_size));
        let bind = ["ListStockChanges", id.as_str()];
        let before = self.cursor(&bind, &request.page_token).map_err(status)?;
        let page = self.keeper.changes(product, before, limit).await.map_err(status)?;
        let next_page_token = page.next.map(|last| self.page_tokens.encode(&bind, &last.to_be_bytes())).unwrap_or_default();
        Ok(Response::new(ListStockChangesResponse { changes: page.changes.into_iter().map(convert::change).collect(), next_page_token }))
    }
}

impl StockApi {
    fn cursor(&self, bind: &[&str], token: &str) -> Result<Option<i64>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        let bytes = self.page_tokens.decode(bind, token).map_err(|_| Error::PageTokenInvalid)?;
        let cursor = bytes.try_into().map_err(|_| Error::PageTokenInvalid)?;
        Ok(Some(i64::from_be_bytes(cursor)))
    }
}

fn page_size(asked: i32) -> usize {
    match usize::try_from(asked) {
        Ok(0) | Err(_) => DEFAULT_PAGE,
        Ok(asked) => asked.min(LARGEST_PAGE),
    }
}
