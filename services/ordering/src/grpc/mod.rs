//! The contract's methods: read the call, call the use case, answer. No SQL, no rules.

mod operator;
mod orders;
mod stream;

use crate::app::App;
use mercato_chassis::page_token::PageTokens;
use tokio_util::sync::CancellationToken;

/// What the methods stand on.
#[derive(Clone)]
pub struct Orders {
    /// The use cases.
    pub app: App,
    /// Signs page tokens.
    pub page_tokens: PageTokens,
    /// Ends streams when the process stops.
    pub stop: CancellationToken,
}
