//! What the catalog does.

pub mod change;
pub mod read;
pub mod shelf;

use chassis::{money::Currency, page_token::PageTokens, pg::Db};
use mercato_chassis as chassis;
use shelf::Shelf;
use std::sync::Arc;

/// Everything a use case needs.
#[derive(Clone)]
pub struct App {
    /// The catalog's database.
    pub db: Db,
    /// Makes page tokens.
    pub page_tokens: PageTokens,
    /// What every price is in.
    pub currency: Currency,
    /// Products ready to be shown.
    pub shelf: Arc<Shelf>,
}
