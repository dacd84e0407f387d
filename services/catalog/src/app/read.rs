//! Reading products and categories.

use super::App;
use crate::{
    convert,
    domain::listing::{Cursor, Filter, Sort},
    error::CatalogError,
    store::{Stocked, list},
};
use futures_util::future::try_join_all;
use mercato_contracts::mercato::catalog::v1 as proto;
use uuid::Uuid;

impl App {
    /// One product.
    ///
    /// # Errors
    /// [`CatalogError::ProductNotFound`].
    pub async fn get(&self, id: Uuid) -> Result<proto::Product, CatalogError> {
        self.shelf.product(id).await?.ok_or(CatalogError::ProductNotFound { product_id: id })
    }

    /// Many products, in the order asked, and the ids that are not in the shop.
    ///
    /// # Errors
    /// Faults only.
    pub async fn get_many(&self, ids: &[Uuid]) -> Result<(Vec<proto::Product>, Vec<Uuid>), CatalogError> {
        let answers = try_join_all(ids.iter().map(|id| self.shelf.product(*id))).await?;
        let missing = ids.iter().zip(&answers).filter(|(_, found)| found.is_none()).map(|(id, _)| *id).collect();
        Ok((answers.into_iter().flatten().collect(), missing))
    }

    /// A page of products, and the token of the next page, empty on the last.
    ///
    /// # Errors
    /// [`CatalogError::PageTokenInvalid`].
    pub async fn list(&self, filter: &Filter, sort: Sort, size: usize, token: &str) -> Result<(Vec<proto::Product>, String), CatalogError> {
        let price = filter.price.map(|(min, max)| format!("{min}-{max}")).unwrap_or_default();
        let bind = ["ListProducts", sort.word(), filter.category.as_deref().unwrap_or_default(), &price];
        let after = match token {
            "" => Cursor::start(sort),
            token => {
                let bytes = self.page_tokens.decode(&bind, token).map_err(|_| CatalogError::PageTokenInvalid)?;
                Cursor::from_bytes(sort, &bytes).ok_or(CatalogError::PageTokenInvalid)?
            }
        };
        let one_more = i64::try_from(size + 1).expect("a page is small");
        let mut found = list::page(self.db.read(), filter, &after, sort == Sort::PriceDown, one_more).await?;
        let more = found.len() > size;
        found.truncate(size);
        let next = match found.last() {
            Some(last) if more => self.page_tokens.encode(&bind, &cursor(sort, last).to_bytes()),
            _ => String::new(),
        };
        Ok((found.iter().map(|found| convert::message(&found.product, found.stock)).collect(), next))
    }

    /// All categories, some seconds old at most.
    ///
    /// # Errors
    /// Faults only.
    pub async fn categories(&self) -> Result<proto::ListCategoriesResponse, CatalogError> {
        Ok(self.shelf.categories().await?)
    }
}

fn cursor(sort: Sort, last: &Stocked) -> Cursor {
    let product = &last.product;
    match sort {
        Sort::Newest => Cursor::Newest(product.created_at, product.id),
        Sort::PriceUp | Sort::PriceDown => Cursor::Price(product.details.price.minor(), product.id),
        Sort::Name => Cursor::Name(last.sort_name.clone(), product.id),
    }
}
