//! Requests, responses and their times.

use http::HeaderMap;
use nara_proto::identity::{KeyPair, NaraName, Soul};
use nara_proto::time::UnixMillis;
use nara_proto::v1::{FRESHNESS_WINDOW, RequestAuth, ResponseAuth, ResponseAuthError, Stamp};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::{keypair, name, text};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn signed_requests_survive_their_headers(
        name in name(),
        keypair in keypair(),
        at in any::<i64>(),
        path in text(),
    ) {
        let now = UnixMillis::new(at);
        let sent = RequestAuth::sign(&keypair, &name, now, "POST", &path);
        let mut headers = HeaderMap::new();
        sent.write_to(&mut headers);
        let received = RequestAuth::from_headers(&headers).unwrap();
        prop_assert_eq!(&received, &sent);
        prop_assert!(received.verify(&keypair.public_key(), "POST", &path, now).is_ok());
        prop_assert!(received.verify(&keypair.public_key(), "PUT", &path, now).is_err());
        let other = format!("{path}x");
        prop_assert!(received.verify(&keypair.public_key(), "POST", &other, now).is_err());
    }

    #[test]
    fn signed_responses_cover_their_body(
        name in name(),
        keypair in keypair(),
        at in any::<i64>(),
        body in vec(any::<u8>(), 0..40),
    ) {
        let now = UnixMillis::new(at);
        let mut headers = HeaderMap::new();
        ResponseAuth::sign(&keypair, &name, now, &body).write_to(&mut headers);
        let received = ResponseAuth::from_headers(&headers).unwrap();
        prop_assert!(received.verify(&keypair.public_key(), &body, now).is_ok());
        let longer = [body.as_slice(), b"\n"].concat();
        prop_assert!(received.verify(&keypair.public_key(), &longer, now).is_err());
    }

    #[test]
    fn the_freshness_window_is_symmetric(
        at in any::<i64>(),
        skew in prop_oneof![0_i64..60_000, Just(30_000), Just(30_001), any::<i64>()],
    ) {
        let name: NaraName = "alice".parse().unwrap();
        let keypair = KeyPair::from_soul(&Soul::bond([1; 32], "alice"));
        let is_fresh = |made: i64, now: i64| {
            let auth = RequestAuth::sign(&keypair, &name, UnixMillis::new(made), "POST", "/dm");
            auth.check_fresh(UnixMillis::new(now)).is_ok()
        };
        let other = at.saturating_add(skew);
        prop_assert_eq!(is_fresh(at, other), is_fresh(other, at));
        let within = u128::from(at.abs_diff(other)) <= FRESHNESS_WINDOW.as_millis();
        prop_assert_eq!(is_fresh(at, other), within);
    }

    /// For any number of calls and any jitter of the clock, as long as the clock is not set back by more than the
    /// maximum lead of a stamp.
    #[test]
    fn stamps_strictly_increase(start in -1_000_000_i64..1_000_000, steps in vec(-50_i64..20, 1..150)) {
        let mut stamp = Stamp::default();
        let mut now = start;
        let mut last = None;
        for step in steps {
            now += step;
            let next = stamp.next(UnixMillis::new(now));
            prop_assert!(next >= UnixMillis::new(now));
            prop_assert!(last.is_none_or(|last| next > last));
            last = Some(next);
        }
    }

    #[test]
    fn stamps_follow_any_clock_without_overflow(clocks in vec(any::<i64>(), 1..20)) {
        let mut stamp = Stamp::default();
        for now in clocks {
            let ahead = UnixMillis::new(now).abs_diff(stamp.next(UnixMillis::new(now)));
            prop_assert!(ahead.as_secs() <= 10);
        }
    }
}

#[test]
fn an_answer_is_accepted_up_to_the_last_millisecond_of_the_window() {
    let name: NaraName = "alice".parse().unwrap();
    let keypair = KeyPair::from_soul(&Soul::bond([1; 32], "alice"));
    let now = 1_769_100_000_250_i64;
    let auth = ResponseAuth::sign(&keypair, &name, UnixMillis::new(now), b"{}");
    let verified = |skew| auth.verify(&keypair.public_key(), b"{}", UnixMillis::new(now + skew));
    for skew in [-30_000, -29_999, 0, 29_999, 30_000] {
        assert_eq!(verified(skew), Ok(()), "{skew} ms");
    }
    for skew in [-60_000, -30_001, 30_001, 60_000] {
        assert!(
            matches!(verified(skew), Err(ResponseAuthError::Stale { .. })),
            "{skew} ms"
        );
    }
}
