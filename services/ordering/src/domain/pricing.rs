//! What an order costs, and whether that is what the customer was shown.

use super::order::Line;
use mercato_chassis::money::Money;
use std::collections::HashSet;
use uuid::Uuid;

/// One line as asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What.
    pub product_id: Uuid,
    /// Units.
    pub quantity: i32,
    /// The unit price the customer was shown, if told.
    pub shown_price: Option<f64>,
}

/// What the catalog says of a product.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// Price of one unit.
    pub price: Money,
}

/// Why an order cannot be priced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PricingError {
    /// A product appears twice.
    Repeated(Uuid),
    /// The products are priced in several currencies.
    CurrencyMixed,
    /// A sum leaves the range of money, or a shown price is no amount of the currency.
    AmountInvalid,
    /// A price is not what the customer was shown.
    PriceChanged {
        /// What the customer was shown.
        expected: String,
        /// What it costs.
        actual: Money,
        /// Set when it is a unit price.
        product: Option<Uuid>,
    },
}

/// No product twice: one line a product keeps reservations and messages simple.
pub fn distinct(wanted: &[Wanted]) -> Result<(), PricingError> {
    let mut seen = HashSet::with_capacity(wanted.len());
    match wanted.iter().find(|w| !seen.insert(w.product_id)) {
        Some(twice) => Err(PricingError::Repeated(twice.product_id)),
        None => Ok(()),
    }
}

/// The lines at the catalog's prices and their sum. `offers` runs parallel to `wanted`.
pub fn price(wanted: &[Wanted], offers: Vec<Offer>) -> Result<(Vec<Line>, Money), PricingError> {
    let mut lines = Vec::with_capacity(wanted.len());
    let mut sum: Option<Money> = None;
    for (want, offer) in wanted.iter().zip(offers) {
        if let Some(shown) = want.shown_price {
            agree_number(shown, &offer.price, Some(want.product_id))?;
        }
        let total = offer.price.checked_mul(i64::from(want.quantity)).map_err(|_| PricingError::AmountInvalid)?;
        sum = Some(match sum {
            None => total,
            Some(so_far) if so_far.currency() != total.currency() => return Err(PricingError::CurrencyMixed),
            Some(so_far) => so_far.checked_add(total).map_err(|_| PricingError::AmountInvalid)?,
        });
        lines.push(Line { product_id: want.product_id, name: offer.name, quantity: want.quantity, price: offer.price, total });
    }
    sum.map(|total| (lines, total)).ok_or(PricingError::AmountInvalid)
}

/// Refuses when a plain number the customer was shown is not the amount.
pub fn agree_number(shown: f64, actual: &Money, product: Option<Uuid>) -> Result<(), PricingError> {
    let shown = Money::from_f64_exact(actual.currency().code(), shown).map_err(|_| PricingError::AmountInvalid)?;
    agree(&shown, actual, product)
}

/// Refuses when the money the customer was shown is not the amount.
pub fn agree(shown: &Money, actual: &Money, product: Option<Uuid>) -> Result<(), PricingError> {
    if shown == actual {
        return Ok(());
    }
    Err(PricingError::PriceChanged { expected: shown.to_amount(), actual: *actual, product })
}
