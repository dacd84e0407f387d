//! Between the contract's messages and the domain. The shape of a message was checked when it was decoded; here is what the shape cannot
//! say: prices are in the shop's currency, and an update mask names fields that can be changed.

use crate::{
    domain::{
        listing::{Filter, Sort},
        product::{Attribute, Change, Details, Product},
    },
    error::CatalogError,
};
use chassis::{
    error::Fault,
    money::{Currency, Money, MoneyError},
};
use mercato_chassis as chassis;
use mercato_contracts::mercato::{catalog::v1 as proto, r#type::v1 as types};
use prost_types::{FieldMask, Timestamp};
use time::OffsetDateTime;
use uuid::Uuid;

/// The fields an update mask can name.
const FIELDS: [&str; 8] = ["name", "description", "price", "category", "tags", "attributes", "images", "sellable"];

/// A product's id.
///
/// # Errors
/// [`Fault::Internal`], for text that the contract lets through only as a UUID.
pub fn id(text: &str) -> Result<Uuid, Fault> {
    Uuid::parse_str(text).map_err(|_| Fault::Internal("a product id passed the contract and is no UUID".to_owned()))
}

/// The details of a new product.
///
/// # Errors
/// [`CatalogError::PriceInvalid`].
pub fn details(request: proto::CreateProductRequest, currency: Currency) -> Result<Details, CatalogError> {
    Ok(Details {
        name: request.name,
        description: request.description,
        price: price("price", &request.price.unwrap_or_default(), currency)?,
        category: request.category,
        tags: request.tags,
        attributes: attributes(request.attributes),
        images: request.images,
        sellable: !request.hidden,
    })
}

/// What an update changes: the fields in the mask, or without a mask those that are set.
///
/// # Errors
/// [`CatalogError::UpdateMaskInvalid`] and [`CatalogError::PriceInvalid`].
pub fn change(patch: proto::ProductPatch, mask: Option<FieldMask>, currency: Currency) -> Result<Change, CatalogError> {
    let mask = mask.map(|mask| mask.paths).unwrap_or_default();
    if let Some(field) = mask.iter().find(|path| !FIELDS.contains(&path.as_str())) {
        let field = field.chars().take(64).collect();
        return Err(CatalogError::UpdateMaskInvalid { field, why: "it is no field that can be changed" });
    }
    let named = |field: &str| mask.iter().any(|path| path == field);
    // A field that is set counts when there is no mask; a field in the mask counts even when it is empty, as far as it may be.
    let counts = |field: &str, set: bool| if mask.is_empty() { set } else { named(field) };
    let needed = |field: &'static str, set: bool| match counts(field, set) {
        true if !set => Err(CatalogError::UpdateMaskInvalid { field: field.to_owned(), why: "it cannot be without a value" }),
        counted => Ok(counted),
    };
    Ok(Change {
        name: needed("name", !patch.name.is_empty())?.then_some(patch.name),
        description: counts("description", !patch.description.is_empty()).then_some(patch.description),
        price: match needed("price", patch.price.is_some())? {
            true => patch.price.map(|message| price("product.price", &message, currency)).transpose()?,
            false => None,
        },
        category: needed("category", !patch.category.is_empty())?.then_some(patch.category),
        tags: counts("tags", !patch.tags.is_empty()).then_some(patch.tags),
        attributes: counts("attributes", !patch.attributes.is_empty()).then(|| attributes(patch.attributes)),
        images: counts("images", !patch.images.is_empty()).then_some(patch.images),
        sellable: if needed("sellable", patch.sellable.is_some())? { patch.sellable } else { None },
    })
}

/// What a list shows and how it is sorted.
///
/// # Errors
/// [`CatalogError::PriceInvalid`] for a bound with more decimals than the currency.
pub fn listing(request: &proto::ListProductsRequest, currency: Currency) -> Result<(Filter, Sort), CatalogError> {
    let bound = |field: &'static str, amount: &str, open: i64| match amount {
        "" => Ok(open),
        amount => amount_in(field, amount, currency).map(|money| money.minor()),
    };
    let (min, max) = (bound("priceMin", &request.price_min, 0)?, bound("priceMax", &request.price_max, i64::MAX)?);
    let filter = Filter {
        category: Some(request.category.clone()).filter(|category| !category.is_empty()),
        price: Some((min, max)).filter(|range| *range != (0, i64::MAX)),
    };
    let sort = match request.sort() {
        proto::ProductSort::Unspecified => Sort::Newest,
        proto::ProductSort::PriceAsc => Sort::PriceUp,
        proto::ProductSort::PriceDesc => Sort::PriceDown,
        proto::ProductSort::Name => Sort::Name,
    };
    Ok((filter, sort))
}

/// A count as messages have it: JSON callers read a plain number. More than fits reads as the largest one.
pub fn units(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The product as callers see it.
pub fn message(product: &Product, stock: i64) -> proto::Product {
    let details = &product.details;
    proto::Product {
        id: product.id.to_string(),
        name: details.name.clone(),
        description: details.description.clone(),
        price: Some(details.price.into_proto()),
        category: details.category.clone(),
        tags: details.tags.clone(),
        attributes: details.attributes.iter().map(|a| types::Attribute { name: a.name.clone(), value: a.value.clone() }).collect(),
        images: details.images.clone(),
        stock: units(stock),
        sellable: details.sellable,
        created_at: Some(timestamp(product.created_at)),
        updated_at: Some(timestamp(product.updated_at)),
        etag: product.etag(),
    }
}

/// A category as callers see it. Its name is its id, written for people.
pub fn category(id: String, product_count: i64) -> proto::Category {
    let words = id.replace('-', " ");
    let mut letters = words.chars();
    let name = letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default();
    proto::Category { id, name, product_count: units(product_count) }
}

fn price(field: &'static str, message: &types::Money, currency: Currency) -> Result<Money, CatalogError> {
    let refuse = |why: &str| CatalogError::PriceInvalid { field, currency_code: currency.code().to_owned(), why: why.to_owned() };
    if message.currency_code != currency.code() {
        return Err(refuse("it is in another currency than the shop"));
    }
    let money = amount_in(field, &message.amount, currency)?;
    if money.minor() < 0 { Err(refuse("it is below zero")) } else { Ok(money) }
}

fn amount_in(field: &'static str, amount: &str, currency: Currency) -> Result<Money, CatalogError> {
    Money::parse(currency.code(), amount).map_err(|error: MoneyError| CatalogError::PriceInvalid {
        field,
        currency_code: currency.code().to_owned(),
        why: error.to_string(),
    })
}

fn attributes(messages: Vec<types::Attribute>) -> Vec<Attribute> {
    messages.into_iter().map(|message| Attribute { name: message.name, value: message.value }).collect()
}

fn timestamp(at: OffsetDateTime) -> Timestamp {
    let nanos = i32::try_from(at.nanosecond()).expect("a second has fewer nanoseconds than an i32 holds");
    Timestamp { seconds: at.unix_timestamp(), nanos }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patch() -> proto::ProductPatch {
        proto::ProductPatch {
            name: "Kettle".into(),
            description: "boils".into(),
            price: Some(types::Money { currency_code: "EUR".into(), amount: "29.90".into() }),
            category: "kitchen".into(),
            tags: vec!["steel".into()],
            attributes: vec![types::Attribute { name: "colour".into(), value: "red".into() }],
            images: vec!["/a.png".into()],
            sellable: Some(false),
            etag: String::new(),
        }
    }

    fn named(change: &Change) -> Vec<&'static str> {
        let set = [
            change.name.is_some(),
            change.description.is_some(),
            change.price.is_some(),
            change.category.is_some(),
            change.tags.is_some(),
            change.attributes.is_some(),
            change.images.is_some(),
            change.sellable.is_some(),
        ];
        FIELDS.into_iter().zip(set).filter(|(_, set)| *set).map(|(field, _)| field).collect()
    }

    fn eur() -> Currency {
        Currency::find("EUR").unwrap()
    }

    proptest! {
        #[test]
        fn exactly_the_fields_in_the_mask_change(fields in proptest::sample::subsequence(FIELDS.to_vec(), 1..=8)) {
            let mask = FieldMask { paths: fields.iter().map(ToString::to_string).collect() };
            let full = change(patch(), Some(mask.clone()), eur()).unwrap();
            prop_assert_eq!(named(&full), fields.clone());
            // Emptied lists and texts are a change; a name, price, category or sellable without a value is refused.
            let emptied = change(proto::ProductPatch::default(), Some(mask), eur());
            let needs_value = fields.iter().any(|field| ["name", "price", "category", "sellable"].contains(field));
            match emptied {
                Ok(change) => { prop_assert!(!needs_value); prop_assert_eq!(named(&change), fields) }
                Err(error) => {
                    let masked = matches!(error, CatalogError::UpdateMaskInvalid { .. });
                    prop_assert!(needs_value && masked, "{}", error);
                }
            }
        }

        #[test]
        fn a_change_leaves_the_other_fields_alone(fields in proptest::sample::subsequence(FIELDS.to_vec(), 0..=8)) {
            let before = Details {
                name: "Mug".into(), description: String::new(), price: Money::parse("EUR", "1").unwrap(), category: "cups".into(),
                tags: vec![], attributes: vec![], images: vec![], sellable: true,
            };
            let wanted = change(patch(), None, eur()).unwrap();
            let kept = |field: &str| !fields.contains(&field);
            let partial = Change {
                name: wanted.name.clone().filter(|_| !kept("name")),
                description: wanted.description.clone().filter(|_| !kept("description")),
                price: wanted.price.filter(|_| !kept("price")),
                category: wanted.category.clone().filter(|_| !kept("category")),
                tags: wanted.tags.clone().filter(|_| !kept("tags")),
                attributes: wanted.attributes.clone().filter(|_| !kept("attributes")),
                images: wanted.images.clone().filter(|_| !kept("images")),
                sellable: wanted.sellable.filter(|_| !kept("sellable")),
            };
            let after = before.with(partial);
            prop_assert_eq!(after.name != before.name, !kept("name"));
            prop_assert_eq!(after.description != before.description, !kept("description"));
            prop_assert_eq!(after.price != before.price, !kept("price"));
            prop_assert_eq!(after.category != before.category, !kept("category"));
            prop_assert_eq!(after.tags != before.tags, !kept("tags"));
            prop_assert_eq!(after.attributes != before.attributes, !kept("attributes"));
            prop_assert_eq!(after.images != before.images, !kept("images"));
            prop_assert_eq!(after.sellable != before.sellable, !kept("sellable"));
        }

        #[test]
        fn a_price_keeps_its_amount_or_is_refused(minor in 0_i64..1_000_000_000_000_000) {
            let amount = Money::from_minor("EUR", minor).unwrap().to_amount();
            let message = types::Money { currency_code: "EUR".into(), amount: amount.clone() };
            prop_assert_eq!(price("price", &message, eur()).unwrap().minor(), minor);
            let finer = types::Money { currency_code: "EUR".into(), amount: format!("{amount}1") };
            prop_assert!(price("price", &finer, eur()).is_err());
        }
    }

    #[test]
    fn prices_are_in_the_shops_currency_and_not_below_zero() {
        for (code, amount) in [("USD", "1.00"), ("EUR", "-0.01"), ("EUR", "0.001"), ("", "")] {
            let message = types::Money { currency_code: code.into(), amount: amount.into() };
            assert!(matches!(price("price", &message, eur()), Err(CatalogError::PriceInvalid { .. })), "{code} {amount}");
        }
    }

    #[test]
    fn without_a_mask_the_fields_that_are_set_count() {
        let only_name = proto::ProductPatch { name: "Pot".into(), ..Default::default() };
        assert_eq!(named(&change(only_name.clone(), None, eur()).unwrap()), ["name"]);
        assert_eq!(named(&change(only_name, Some(FieldMask::default()), eur()).unwrap()), ["name"]);
        assert_eq!(named(&change(patch(), None, eur()).unwrap()), FIELDS);
    }

    #[test]
    fn unknown_fields_in_a_mask_are_refused() {
        for field in ["stock", "etag", "*", "price.amount", ""] {
            let refused = change(patch(), Some(FieldMask { paths: vec![field.into()] }), eur());
            assert!(matches!(refused, Err(CatalogError::UpdateMaskInvalid { .. })), "{field}");
        }
    }

    #[test]
    fn a_category_is_named_for_people() {
        assert_eq!(category("home-textiles".into(), 3).name, "Home textiles");
    }
}
