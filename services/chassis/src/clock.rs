//! The time of day. Durations and deadlines use tokio's clock; leases and due times use the database's.

use time::OffsetDateTime;

/// Now, in UTC, cut to microseconds as the database stores it.
pub fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(now.nanosecond() / 1000 * 1000).expect("a smaller nanosecond is in range")
}

/// Seconds since 1970.
pub fn unix_seconds() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}
