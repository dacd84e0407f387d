//! Those who mean harm: garbage in every field, other people's orders, forged and stale tokens, floods. A shop of its own, without Redis,
//! in which one scenario plays at a time, so that what is stored can be compared before and after.

/// Whether each role is a process of its own.
const APART: bool = false;
/// What the shop's processes are told beside the usual: Redis is gone, and one subject has few changes at once.
const SETTINGS: &[(&str, &str)] = &[
    ("REDIS_URL", "redis://127.0.0.1:9"),
    ("MERCATO_RATE_WRITE_BURST", "1500"),
    ("MERCATO_RATE_WRITE_PER_SECOND", "1"),
    ("MERCATO_EDGE_KEYS_SECONDS", "2"),
];

#[path = "suite/hostile.rs"]
mod suite;
