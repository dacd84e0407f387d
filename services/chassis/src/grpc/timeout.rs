//! The `grpc-timeout` header.

use http::{HeaderMap, HeaderValue};
use std::time::Duration;

/// The header's name.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";

/// How long the caller waits; nothing when it does not say, or says it wrongly.
pub fn parse(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// The header's value for a time, at most eight digits.
pub fn format(time: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let units = [(time.as_micros(), 'u'), (time.as_millis(), 'm'), (u128::from(time.as_secs()), 'S')];
    let (value, unit) = units.into_iter().find(|(value, _)| *value <= MOST).unwrap_or((MOST, 'S'));
    HeaderValue::from_str(&format!("{value}{unit}")).expect("digits and a letter are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_str(text).unwrap());
        parse(&headers)
    }

    #[test]
    fn reads_every_unit_and_refuses_the_rest() {
        assert_eq!(parsed("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parsed("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parsed("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "5", "5s", "-5S", "999999999S", "1.5S", "5µ"] {
            if let Ok(value) = HeaderValue::from_str(bad) {
                let mut headers = HeaderMap::new();
                headers.insert(GRPC_TIMEOUT, value);
                assert_eq!(parse(&headers), None, "{bad}");
            }
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for time in [Duration::ZERO, Duration::from_micros(1_234_567), Duration::from_secs(3600), Duration::from_secs(99_999_999)] {
            assert_eq!(parsed(format(time).to_str().unwrap()), Some(time));
        }
        assert!(parsed(format(Duration::MAX).to_str().unwrap()).is_some());
    }
}
