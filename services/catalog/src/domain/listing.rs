//! Which products a list shows, in which order, and where its next page begins.

use time::{OffsetDateTime, macros::datetime};
use uuid::Uuid;

/// Later than any product is created.
const NEVER: OffsetDateTime = datetime!(9999-12-31 0:00 UTC);

/// Products on a page when the caller does not say.
pub const PAGE_DEFAULT: usize = 20;
/// The most products on a page; asking for more gets this many.
pub const PAGE_MOST: usize = 100;

/// The order of a list. Ties are broken by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// Newest first.
    Newest,
    /// Cheapest first.
    PriceUp,
    /// Dearest first.
    PriceDown,
    /// By the first 64 characters of the name, whatever the case of its letters.
    Name,
}

impl Sort {
    /// A word for it; part of what a page token is bound to.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::PriceUp => "price_up",
            Self::PriceDown => "price_down",
            Self::Name => "name",
        }
    }
}

/// Which products a list shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Only this category.
    pub category: Option<String>,
    /// Only prices from the first to the second, both included, in minor units.
    pub price: Option<(i64, i64)>,
}

/// How many products a page holds for the number asked.
pub fn page_size(asked: i32) -> usize {
    match usize::try_from(asked) {
        Ok(0) | Err(_) => PAGE_DEFAULT,
        Ok(size) => size.min(PAGE_MOST),
    }
}

/// The place after a product in a list: the value it is sorted by, and its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cursor {
    /// In [`Sort::Newest`]: when it was created, to the microsecond.
    Newest(OffsetDateTime, Uuid),
    /// In [`Sort::PriceUp`] and [`Sort::PriceDown`]: its price in minor units.
    Price(i64, Uuid),
    /// In [`Sort::Name`]: the name it is sorted by.
    Name(String, Uuid),
}

impl Cursor {
    /// The place before the first product.
    pub fn start(sort: Sort) -> Cursor {
        match sort {
            Sort::Newest => Self::Newest(NEVER, Uuid::max()),
            Sort::PriceUp => Self::Price(-1, Uuid::nil()),
            Sort::PriceDown => Self::Price(i64::MAX, Uuid::max()),
            Sort::Name => Self::Name(String::new(), Uuid::nil()),
        }
    }

    /// As bytes for a page token: the id, then the value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (id, value) = match self {
            Self::Newest(at, id) => (id, at.unix_timestamp_nanos().to_be_bytes().to_vec()),
            Self::Price(minor, id) => (id, minor.to_be_bytes().to_vec()),
            Self::Name(name, id) => (id, name.as_bytes().to_vec()),
        };
        [id.as_bytes().as_slice(), &value].concat()
    }

    /// Back from bytes; nothing when they are no cursor of this order.
    pub fn from_bytes(sort: Sort, bytes: &[u8]) -> Option<Cursor> {
        let (id, value) = bytes.split_first_chunk::<16>()?;
        let id = Uuid::from_bytes(*id);
        match sort {
            Sort::Newest => {
                let nanos = i128::from_be_bytes(value.try_into().ok()?);
                OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().map(|at| Self::Newest(at, id))
            }
            Sort::PriceUp | Sort::PriceDown => value.try_into().ok().map(|minor| Self::Price(i64::from_be_bytes(minor), id)),
            Sort::Name => String::from_utf8(value.to_vec()).ok().map(|name| Self::Name(name, id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursors() -> impl Strategy<Value = (Sort, Cursor)> {
        let id = any::<u128>().prop_map(Uuid::from_u128);
        let micros = 0_i64..250_000_000_000_000_000;
        prop_oneof![
            (micros, id.clone()).prop_map(|(micros, id)| {
                let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).unwrap();
                (Sort::Newest, Cursor::Newest(at, id))
            }),
            (any::<i64>(), id.clone()).prop_map(|(minor, id)| (Sort::PriceUp, Cursor::Price(minor, id))),
            (any::<i64>(), id.clone()).prop_map(|(minor, id)| (Sort::PriceDown, Cursor::Price(minor, id))),
            (".{0,64}", id).prop_map(|(name, id)| (Sort::Name, Cursor::Name(name, id))),
        ]
    }

    proptest! {
        #[test]
        fn a_cursor_survives_its_bytes((sort, cursor) in cursors()) {
            prop_assert_eq!(Cursor::from_bytes(sort, &cursor.to_bytes()), Some(cursor.clone()));
            // A page token is this, a byte, and a MAC of 16 bytes in base64, and may have 512 letters.
            prop_assert!((cursor.to_bytes().len() + 17).div_ceil(3) * 4 <= 512);
        }

        #[test]
        fn any_bytes_are_a_cursor_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for sort in [Sort::Newest, Sort::PriceUp, Sort::PriceDown, Sort::Name] {
                if let Some(cursor) = Cursor::from_bytes(sort, &bytes) {
                    prop_assert_eq!(cursor.to_bytes(), bytes.clone());
                }
            }
        }

        #[test]
        fn a_page_has_at_least_one_and_at_most_a_hundred(asked: i32) {
            prop_assert!((1..=PAGE_MOST).contains(&page_size(asked)));
        }
    }

    #[test]
    fn every_order_begins_at_a_cursor_that_survives() {
        for sort in [Sort::Newest, Sort::PriceUp, Sort::PriceDown, Sort::Name] {
            let start = Cursor::start(sort);
            assert_eq!(Cursor::from_bytes(sort, &start.to_bytes()), Some(start));
        }
    }
}
