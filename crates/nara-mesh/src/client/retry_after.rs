//! Peers that ask for a pause (RFC 9110, section 10.2.3; RFC 6585, section 4).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, StatusCode};
use nara_proto::time::UnixMillis;

use crate::defaults;

/// Returns how long an answer asks to wait before the next call, if it does: any answer with status 429, and one
/// with status 503 that gives a duration. At most 5 minutes. `now` is our clock, for answers that give a time but
/// no `Date`.
pub(super) fn asked_to_wait(
    status: StatusCode,
    headers: &HeaderMap,
    now: impl FnOnce() -> UnixMillis,
) -> Option<Duration> {
    let told = || read(headers, now()).map(|wait| wait.min(defaults::RETRY_AFTER_MAX));
    match status {
        StatusCode::TOO_MANY_REQUESTS => Some(told().unwrap_or(defaults::RETRY_AFTER_UNTOLD)),
        StatusCode::SERVICE_UNAVAILABLE => told(),
        _ => None,
    }
}

fn read(headers: &HeaderMap, now: UnixMillis) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that overflows is longer than any accepted pause.
        return Some(text.parse().map_or(Duration::MAX, Duration::from_secs));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    // Relative to the clock of the peer, if it sends it: the peer means a duration.
    let ours = || UNIX_EPOCH + Duration::from_millis(u64::try_from(now.get()).unwrap_or(0));
    let now = date(headers, DATE).unwrap_or_else(ours);
    Some(at.duration_since(now).unwrap_or_default())
}

/// Returns a header with an HTTP date, which has a resolution of one second.
pub(super) fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis::new(784_111_777_000);

    fn wait(status: u16, retry_after: Option<&str>, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in [(RETRY_AFTER, retry_after), (DATE, date)] {
            if let Some(value) = value {
                headers.insert(name, value.parse().unwrap());
            }
        }
        let status = StatusCode::from_u16(status).unwrap();
        asked_to_wait(status, &headers, || NOW).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_and_dates_are_read_and_capped() {
        let date = "Sun, 06 Nov 1994 08:49:47 GMT";
        for status in [429, 503] {
            assert_eq!(wait(status, Some("0"), None), Some(0));
            assert_eq!(wait(status, Some("7"), None), Some(7));
            assert_eq!(wait(status, Some(date), None), Some(10), "by our clock");
            assert_eq!(
                wait(status, Some(date), Some("Sun, 06 Nov 1994 08:49:43 GMT")),
                Some(4)
            );
            assert_eq!(
                wait(status, Some(date), Some("Sun, 06 Nov 1994 08:50:43 GMT")),
                Some(0)
            );
            for long in ["301", "99999999999999999999999", "Sat, 06 Nov 2094 08:49:47 GMT"] {
                assert_eq!(wait(status, Some(long), None), Some(300), "{long}");
            }
        }
    }

    #[test]
    fn only_429_asks_without_saying_how_long() {
        for invalid in [
            None,
            Some(""),
            Some("soon"),
            Some("-1"),
            Some("+1"),
            Some("1.5"),
            Some("1 "),
        ] {
            assert_eq!(wait(429, invalid, None), Some(1), "{invalid:?}");
            assert_eq!(wait(503, invalid, None), None, "{invalid:?}");
        }
        for status in [200, 401, 500] {
            assert_eq!(wait(status, Some("7"), None), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_peer_writes_is_at_most_the_cap(
            text in "[0-9A-Za-z,: +.-]{0,40}",
            date in "[0-9A-Za-z,: +.-]{0,40}",
            now in proptest::num::i64::ANY,
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            headers.insert(DATE, date.parse().unwrap());
            let wait = asked_to_wait(StatusCode::TOO_MANY_REQUESTS, &headers, || UnixMillis::new(now));
            proptest::prop_assert!(wait.is_some_and(|wait| wait <= defaults::RETRY_AFTER_MAX));
        }
    }
}
