//! The answer to a request that is refused because of its time.

use std::time::Duration;

use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use nara_proto::clock_offset::ClockRefusal;
use nara_proto::event::KeyLookup as _;
use nara_proto::v1::{NAME_HEADER, RequestAuthError};
use nara_proto::v2::SignatureError;

use crate::server::answer::rejection::Rejection;
use crate::server::auth::authenticator::Authenticator;

impl Authenticator {
    /// Returns the answer to an unauthenticated request. If it is refused because of its time, headers give our time
    /// and the clock that is probably wrong; the text stays that of v1 peers.
    pub(in crate::server) fn refuse(&self, parts: &Parts, rejection: Rejection) -> Response {
        let distance = distance(&rejection);
        let mut response = rejection.into_response();
        if let Some(nanos) = distance {
            let now = self.clock.now_millis();
            // Only to exclude the claimed sender's own clock from the judgement.
            let name = parts.headers.get(NAME_HEADER);
            let name = name.and_then(|name| std::str::from_utf8(name.as_bytes()).ok());
            let key = name.and_then(|name| self.known_keys.key_of_name(name));
            let refusal = ClockRefusal {
                request: None,
                receiver: now,
                fault: self.registry.judge_clocks(key.as_ref(), nanos),
            };
            refusal.write_to(response.headers_mut());
        }
        response
    }
}

/// Returns how far the time of a refused request is ahead of our clock, in nanoseconds.
fn distance(rejection: &Rejection) -> Option<i64> {
    let signed = |by: Duration, ahead| {
        let nanos = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        if ahead { nanos } else { -nanos }
    };
    match rejection {
        Rejection::Unauthenticated(RequestAuthError::Stale { by, ahead }) => Some(signed(*by, *ahead)),
        Rejection::Signature(SignatureError::Stale { created, now }) => {
            Some(signed(created.abs_diff(*now), created > now))
        }
        _ => None,
    }
}
