//! Products come, change and go. Each is one transaction with its event, done once for a key.

use super::App;
use crate::{
    convert,
    domain::product::{Change, Details, Product, version},
    error::CatalogError,
    events,
    store::{Stocked, products as store},
};
use chassis::{
    idempotency::{self, Answer, Key},
    ids, outbox,
};
use futures_util::FutureExt;
use mercato_chassis as chassis;
use mercato_contracts::mercato::catalog::v1 as proto;
use sqlx::PgConnection;
use uuid::Uuid;

impl App {
    /// Puts a new product into the shop.
    ///
    /// # Errors
    /// Faults only.
    pub async fn create(&self, key: &Key, details: Details) -> Result<Answer<proto::Product>, CatalogError> {
        idempotency::once(&self.db, key, move |tx| {
            let details = details.clone();
            async move {
                let product = store::insert(tx, ids::new(), &details).await?;
                outbox::append(tx, &[events::created(&product)]).await?;
                Ok::<_, CatalogError>(convert::message(&product, 0))
            }
            .boxed()
        })
        .await
    }

    /// Changes a product. A change that changes nothing leaves the version alone and tells nobody.
    ///
    /// # Errors
    /// [`CatalogError::ProductNotFound`], and [`CatalogError::EtagMismatch`] when `seen` is neither empty nor current.
    pub async fn update(&self, key: &Key, id: Uuid, seen: String, change: Change) -> Result<Answer<proto::Product>, CatalogError> {
        let answer = idempotency::once(&self.db, key, move |tx| {
            let (seen, change) = (seen.clone(), change.clone());
            async move {
                let Stocked { product, stock, .. } = lock(tx, id, &seen).await?;
                let details = product.details.with(change);
                if details == product.details {
                    return Ok::<_, CatalogError>(convert::message(&product, stock));
                }
                let product = store::update(tx, &product, details).await?;
                outbox::append(tx, &[events::updated(&product)]).await?;
                Ok(convert::message(&product, stock))
            }
            .boxed()
        })
        .await?;
        if let Some(version) = version(&answer.message.etag) {
            self.shelf.changed(id, version);
        }
        Ok(answer)
    }

    /// Takes a product out of the shop.
    ///
    /// # Errors
    /// [`CatalogError::ProductNotFound`], and [`CatalogError::EtagMismatch`] when `seen` is neither empty nor current.
    pub async fn delete(&self, key: &Key, id: Uuid, seen: String) -> Result<Answer<()>, CatalogError> {
        let answer = idempotency::once(&self.db, key, move |tx| {
            let seen = seen.clone();
            async move {
                let Stocked { product, .. } = lock(tx, id, &seen).await?;
                let version = store::delete(tx, &product).await?;
                outbox::append(tx, &[events::deleted(id, version)]).await?;
                Ok::<_, CatalogError>(())
            }
            .boxed()
        })
        .await?;
        self.shelf.gone(id);
        Ok(answer)
    }
}

/// The product, held until the transaction ends, if it is there and unchanged since the caller saw it.
async fn lock(tx: &mut PgConnection, id: Uuid, seen: &str) -> Result<Stocked, CatalogError> {
    let found = store::lock(tx, id).await?.ok_or(CatalogError::ProductNotFound { product_id: id })?;
    let product: &Product = &found.product;
    if product.matches(seen) { Ok(found) } else { Err(CatalogError::EtagMismatch { product_id: id, etag: product.etag() }) }
}
