//! The time events are stamped with. It orders nothing: versions do.

use time::OffsetDateTime;

/// Now, in whole microseconds, which is what PostgreSQL keeps: an order reads the same from its snapshot and from its events.
pub fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now)
}
