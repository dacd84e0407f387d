//! A product, its etag, and the change of some of its fields.

use chassis::money::Money;
use mercato_chassis as chassis;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

/// One free attribute, such as the colour. Stored as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribute {
    /// What is described.
    pub name: String,
    /// Its value as text.
    pub value: String,
}

/// What people decide about a product.
#[derive(Debug, Clone, PartialEq)]
pub struct Details {
    /// Name for people.
    pub name: String,
    /// Description, plain text.
    pub description: String,
    /// What one unit costs.
    pub price: Money,
    /// The id of its category.
    pub category: String,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Free attributes, in the order given.
    pub attributes: Vec<Attribute>,
    /// Addresses of images.
    pub images: Vec<String>,
    /// Whether it can be ordered.
    pub sellable: bool,
}

/// A product that is in the shop.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    /// Its id.
    pub id: Uuid,
    /// What people decide about it.
    pub details: Details,
    /// Counts its changes from 1; also the sequence of its latest event.
    pub version: i64,
    /// When it was created.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
}

/// New values for some fields; a field that is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// See [`Details::name`].
    pub name: Option<String>,
    /// See [`Details::description`].
    pub description: Option<String>,
    /// See [`Details::price`].
    pub price: Option<Money>,
    /// See [`Details::category`].
    pub category: Option<String>,
    /// See [`Details::tags`]; replaces the whole list.
    pub tags: Option<Vec<String>>,
    /// See [`Details::attributes`]; replaces the whole list.
    pub attributes: Option<Vec<Attribute>>,
    /// See [`Details::images`]; replaces the whole list.
    pub images: Option<Vec<String>>,
    /// See [`Details::sellable`].
    pub sellable: Option<bool>,
}

impl Details {
    /// These details with the change applied.
    #[must_use]
    pub fn with(&self, change: Change) -> Details {
        Details {
            name: change.name.unwrap_or_else(|| self.name.clone()),
            description: change.description.unwrap_or_else(|| self.description.clone()),
            price: change.price.unwrap_or(self.price),
            category: change.category.unwrap_or_else(|| self.category.clone()),
            tags: change.tags.unwrap_or_else(|| self.tags.clone()),
            attributes: change.attributes.unwrap_or_else(|| self.attributes.clone()),
            images: change.images.unwrap_or_else(|| self.images.clone()),
            sellable: change.sellable.unwrap_or(self.sellable),
        }
    }
}

impl Product {
    /// The version as callers see it. Opaque to them.
    pub fn etag(&self) -> String {
        etag(self.version)
    }

    /// Whether a change made on `seen` may go ahead; an empty `seen` means whatever is there.
    pub fn matches(&self, seen: &str) -> bool {
        seen.is_empty() || seen == self.etag()
    }
}

/// The etag of a version.
pub fn etag(version: i64) -> String {
    version.to_string()
}

/// The version behind an etag of ours; nothing for text that is none.
pub fn version(etag: &str) -> Option<i64> {
    etag.parse().ok()
}
