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
    PriceChanged(Box<PriceChange>),
}

/// What the customer was shown, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceChange {
    /// The total the customer was shown, or that follows from the prices shown.
    pub expected_total: Money,
    /// What the order costs.
    pub actual_total: Money,
    /// The first unit price that moved, if one did: product, price shown, price now.
    pub unit: Option<(Uuid, Money, Money)>,
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
    for (want, offer) in wanted.iter().zip(offers) {
        let total = times(offer.price, want.quantity)?;
        lines.push(Line { product_id: want.product_id, name: offer.name, quantity: want.quantity, price: offer.price, total });
    }
    let total = sum(lines.iter().map(|line| line.total))?;
    Ok((lines, total))
}

/// Refuses when a unit price or the total is not what the customer was shown. What was not shown is not compared.
pub fn agree(wanted: &[Wanted], lines: &[Line], total: Money, shown_total: Option<Money>) -> Result<(), PricingError> {
    let (mut shown_lines, mut moved) = (Vec::with_capacity(lines.len()), None);
    for (want, line) in wanted.iter().zip(lines) {
        let shown = want.shown_price.map_or(Ok(line.price), |number| exact(number, &line.price))?;
        if shown != line.price && moved.is_none() {
            moved = Some((want.product_id, shown, line.price));
        }
        shown_lines.push(times(shown, want.quantity)?);
    }
    if moved.is_none() && shown_total.is_none_or(|shown| shown == total) {
        return Ok(());
    }
    let expected_total = shown_total.map_or_else(|| sum(shown_lines.into_iter()), Ok)?;
    Err(PricingError::PriceChanged(Box::new(PriceChange { expected_total, actual_total: total, unit: moved })))
}

/// A plain number as money of the same currency as `like`.
pub fn exact(number: f64, like: &Money) -> Result<Money, PricingError> {
    Money::from_f64_exact(like.currency().code(), number).map_err(|_| PricingError::AmountInvalid)
}

fn times(price: Money, quantity: i32) -> Result<Money, PricingError> {
    price.checked_mul(i64::from(quantity)).map_err(|_| PricingError::AmountInvalid)
}

fn sum(amounts: impl Iterator<Item = Money>) -> Result<Money, PricingError> {
    let mut total: Option<Money> = None;
    for amount in amounts {
        total = Some(match total {
            None => amount,
            Some(so_far) if so_far.currency() != amount.currency() => return Err(PricingError::CurrencyMixed),
            Some(so_far) => so_far.checked_add(amount).map_err(|_| PricingError::AmountInvalid)?,
        });
    }
    total.ok_or(PricingError::AmountInvalid)
}
