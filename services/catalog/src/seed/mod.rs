//! Products to try the shop with. The nth product is the same on every machine and every run, down to its id, so that seeding again adds
//! nothing and benchmarks are comparable.

mod words;

use crate::{
    domain::product::{Attribute, Details, Product},
    events,
    store::seed as store,
};
use chassis::{error::Fault, money::Money, outbox, pg::Db};
use futures_util::FutureExt;
use mercato_chassis as chassis;
use std::{sync::Arc, time::Duration};
use time::{OffsetDateTime, macros::datetime};
use uuid::Uuid;
use words::{BRANDS, COLOURS, SHELVES, STYLES, Shelf};

/// Products written in one transaction.
const BATCH: usize = 1000;
/// How long one batch may take.
const BUDGET: Duration = Duration::from_secs(30);
/// When the first product came into being; each further one came a minute later.
const FIRST: OffsetDateTime = datetime!(2025-01-01 8:00 UTC);
/// What every price of the seed is in.
const CURRENCY: &str = "EUR";

/// Writes the first `n` products of the seed, those that are missing, each with the event of its creation. `progress` hears how many are
/// done after each batch. Returns the ids of all `n`.
///
/// # Errors
/// What the database says; batches before it are kept, and seeding again goes on after them.
pub async fn seed(db: &Db, n: usize, progress: impl Fn(usize)) -> Result<Vec<Uuid>, Fault> {
    let mut ids = Vec::with_capacity(n);
    for start in (0..n).step_by(BATCH) {
        let batch: Vec<Product> = (start..n.min(start + BATCH)).map(product).collect::<Result<_, _>>()?;
        ids.extend(batch.iter().map(|product| product.id));
        let batch = Arc::new(batch);
        db.uow_within::<_, Fault, _>(BUDGET, move |tx| {
            let batch = Arc::clone(&batch);
            async move {
                let new = store::insert(tx, &batch).await?;
                let events: Vec<_> = batch.iter().filter(|product| new.contains(&product.id)).map(events::created).collect();
                outbox::append(tx, &events).await
            }
            .boxed()
        })
        .await?;
        progress(ids.len());
    }
    Ok(ids)
}

/// The id of the nth product of the seed, a UUIDv7.
pub fn id(n: usize) -> Uuid {
    let millis = u64::try_from(created_at(n).unix_timestamp_nanos() / 1_000_000).expect("the seed begins after 1970");
    let mut random = Random::new(n);
    let mut bytes = [0; 10];
    bytes.copy_from_slice(&[random.next().to_be_bytes(), random.next().to_be_bytes()].concat()[..10]);
    uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
}

fn created_at(n: usize) -> OffsetDateTime {
    FIRST + Duration::from_secs(60).saturating_mul(u32::try_from(n).unwrap_or(u32::MAX))
}

/// The nth product of the seed.
fn product(n: usize) -> Result<Product, Fault> {
    let mut random = Random::new(n);
    random.next();
    let shelf = &SHELVES[n % SHELVES.len()];
    let (thing, price, grams) = random.pick(shelf.things);
    let (brand, style, colour) = (random.pick(BRANDS), random.pick(STYLES), random.pick(COLOURS));
    let (first, second) = (random.pick(shelf.traits), random.pick(shelf.traits));
    let mut attributes = vec![attribute("brand", brand), attribute("colour", colour)];
    if !shelf.sizes.is_empty() {
        attributes.push(attribute("size", random.pick(shelf.sizes)));
    }
    let grams = grams * (80 + random.below(41)) / 100;
    attributes.push(attribute(
        "weight",
        &if grams < 1000 { format!("{grams} g") } else { format!("{}.{} kg", grams / 1000, grams % 1000 / 100) },
    ));
    // Between 60 % and 160 % of the usual price, ending in .00, .49, .90 or .99.
    let minor = price * (60 + random.below(101)) / 100 * 100 + random.pick(&[0, 49, 90, 99]);
    let price = Money::from_minor(CURRENCY, minor).map_err(|error| Fault::Internal(format!("the seed has a bad price: {error}")))?;
    let details = Details {
        name: format!("{brand} {style} {thing}, {colour}"),
        description: description(&mut random, shelf, &thing.to_lowercase(), first, second),
        price,
        category: shelf.category.to_owned(),
        tags: tags(thing, style, first, second),
        attributes,
        images: vec![],
        sellable: true,
    };
    Ok(Product { id: id(n), details, version: 1, created_at: created_at(n), updated_at: created_at(n) })
}

fn attribute(name: &str, value: &str) -> Attribute {
    Attribute { name: name.to_owned(), value: value.to_owned() }
}

fn description(random: &mut Random, shelf: &Shelf, thing: &str, first: &str, second: &str) -> String {
    let qualities = if first == second { first.to_owned() } else { format!("{first}, {second}") };
    let made_for = random.pick(shelf.uses);
    let opening = random.pick(&["A well-made", "A simple", "A sturdy", "A carefully finished", "An honest", "A handsome"]);
    let closing = random.pick(&[
        "Wears well and is easy to look after.",
        "Every part can be replaced.",
        "Comes in a box without plastic.",
        "Gets better with age.",
        "Made in small batches.",
        "With a two-year guarantee.",
    ]);
    format!("{opening} {thing} ({qualities}), made for {made_for}. {closing}")
}

fn tags(thing: &str, style: &str, first: &str, second: &str) -> Vec<String> {
    let mut tags = vec![thing.to_lowercase(), style.to_lowercase(), first.to_lowercase()];
    if first != second {
        tags.push(second.to_lowercase());
    }
    tags
}

/// SplitMix64: small, and the same for ever, which a library's generator does not promise.
struct Random(u64);

impl Random {
    /// A generator of its own for each product, so that the nth product does not depend on how many came before it.
    fn new(n: usize) -> Random {
        Random(0x4d45_5243_4154_4f31 ^ (n as u64).wrapping_mul(0xd134_2543_de82_ef95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to but not `limit`, which is small.
    fn below(&mut self, limit: u32) -> i64 {
        i64::from(u32::try_from(self.next() % u64::from(limit)).expect("a remainder is below its divisor"))
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.next() % choices.len() as u64).expect("a remainder is below its divisor")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn products_are_distinct_stable_and_valid() {
        let products: Vec<Product> = (0..3000).map(|n| product(n).unwrap()).collect();
        let ids: HashSet<Uuid> = products.iter().map(|product| product.id).collect();
        assert_eq!(ids.len(), products.len());
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        assert_eq!(products[7], product(7).unwrap());
        let categories: HashSet<&str> = products.iter().map(|product| product.details.category.as_str()).collect();
        assert_eq!(categories.len(), SHELVES.len());
        for product in &products {
            let message = crate::convert::message(product, 0);
            mercato_contracts::validate::check(&message).unwrap_or_else(|broken| panic!("{product:?}: {broken:?}"));
            assert!(product.details.price.minor() > 0);
        }
    }
}
