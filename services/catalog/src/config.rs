//! The catalog's settings.

use chassis::{config::Source, money::Currency};
use mercato_chassis as chassis;
use std::time::Duration;

/// Settings of the catalog.
#[derive(Debug, Clone)]
pub struct Config {
    /// `MERCATO_CURRENCY`: what every price is in. Default EUR.
    pub currency: Currency,
    /// `MERCATO_CATALOG_CACHE_ENTRIES`: how many products each process keeps ready. Default 100,000.
    pub cache_entries: u64,
    /// `MERCATO_CATALOG_CACHE_TTL_MS`: after how long a product is read again even when nobody said that it changed. Default 60 s. Redis
    /// keeps products five times as long.
    pub cache_ttl: Duration,
    /// `MERCATO_CATALOG_STOCK_TTL_MS`: the same for a product's stock. Default 10 s.
    pub stock_ttl: Duration,
}

impl Config {
    /// Reads the settings; what is wrong is collected in `source`.
    pub fn read(source: &mut Source) -> Config {
        let code = source.string("MERCATO_CURRENCY", "EUR", "the shop's currency, an ISO 4217 code; every price is in it");
        let currency = Currency::find(&code).unwrap_or_else(|error| {
            source.refuse("MERCATO_CURRENCY", error);
            Currency::find("EUR").expect("EUR is a currency")
        });
        Config {
            currency,
            cache_entries: source.number("MERCATO_CATALOG_CACHE_ENTRIES", 100_000, 1..=10_000_000, "products each process keeps in memory"),
            cache_ttl: source.duration_ms(
                "MERCATO_CATALOG_CACHE_TTL_MS",
                60_000,
                100..=3_600_000,
                "milliseconds after which a product is read again without an event; redis keeps products five times as long",
            ),
            stock_ttl: source.duration_ms(
                "MERCATO_CATALOG_STOCK_TTL_MS",
                10_000,
                100..=600_000,
                "milliseconds after which a product's stock is read again without an event",
            ),
        }
    }
}
