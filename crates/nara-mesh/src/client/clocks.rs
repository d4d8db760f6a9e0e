//! Clocks that are apart: what verified answers teach about them, and what to say when a call fails for its time.

use std::error::Error;
use std::time::{Duration, UNIX_EPOCH};

use http::header::DATE;
use http::{HeaderMap, StatusCode};
use nara_proto::clock_offset::{ClockFault, ClockRefusal, ClockSample};
use nara_proto::time::{UnixMillis, UnixNanos};
use nara_proto::v1::ResponseAuthError;
use nara_proto::v2::SignatureError;

use super::address::Route;
use super::clock_skew::{ClockSkew, Skewed};
use super::error::ErrorKind;
use super::retry_after::date;
use super::status_answer::StatusAnswer;
use super::{MeshClient, Verification};
use crate::clock::Clock;

/// How v1 peers, and we, begin the reason of a refusal for its time (docs/protocol/v1.md, section 4.3).
const REFUSED_FOR_TIME: &str = "Authentication failed: timestamp too old or in future";

/// Between which readings of our clock a peer made its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) sent: UnixNanos,
    pub(super) received: UnixNanos,
}

impl Asked {
    /// A question that is sent now. [`Asked::answered`] completes it.
    pub(super) fn now(clock: &dyn Clock) -> Self {
        let now = clock.now_nanos();
        Self {
            sent: now,
            received: now,
        }
    }

    pub(super) fn answered(mut self, clock: &dyn Clock) -> Self {
        self.received = clock.now_nanos();
        self
    }
}

impl MeshClient {
    /// Learns from a verified answer how far the clock of its peer is from ours.
    pub(super) fn learn_clock(&self, route: &Route, verification: &Verification, asked: Asked) {
        let Verification {
            responder: Some(responder),
            key: Some(key),
            signed_at: Some(signed_at),
            ..
        } = verification
        else {
            return;
        };
        // A whole second may be one that was rounded down, as it is in profile v2.
        let resolution = if signed_at.get() % 1_000 == 0 { 1_000 } else { 1 };
        let resolution = Duration::from_millis(resolution);
        let told = signed_at.to_nanos();
        if let Some(sample) = ClockSample::of_answer(told, resolution, asked.sent, asked.received) {
            let registry = &self.shared.registry;
            let registered = registry.by_name(responder.as_str());
            registry.learn_clock(registered.as_ref().unwrap_or(&route.peer), key, sample);
        }
    }

    /// The time with which a request to a peer is signed.
    pub(super) fn signing_time(&self, route: &Route) -> UnixMillis {
        let now = self.shared.clock.now_millis();
        let compensated = route.peer.signing_time(now, self.shared.compensate_clocks);
        compensated.unwrap_or_else(|| {
            // A stamp is valid whatever a holder of the lock did.
            let mut stamp = self
                .shared
                .stamp
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            stamp.next(now)
        })
    }

    /// An answer with another status than 200, as an error that says more if it refuses the request for its time.
    pub(super) fn explain_clocks(
        &self,
        route: &Route,
        kind: ErrorKind,
        headers: &HeaderMap,
        asked: Asked,
    ) -> ErrorKind {
        let ErrorKind::Status(answer) = kind else {
            return kind;
        };
        let Some(refusal) = refused_for_time(&answer, headers) else {
            return ErrorKind::Status(answer);
        };
        let ours = asked.received.to_millis();
        ErrorKind::ClockSkew(self.skew(
            route,
            refusal.receiver,
            ours,
            refusal.fault,
            Skewed::Request(answer),
        ))
    }

    /// The error of an answer, which says more if the answer is properly signed, but with a time outside of the
    /// window.
    pub(super) fn explain_stale_answer(
        &self,
        route: &Route,
        kind: ErrorKind,
        signed_at: Option<UnixMillis>,
        now: UnixMillis,
    ) -> ErrorKind {
        let Some(signed_at) = signed_at else {
            return kind;
        };
        let error: Box<dyn Error + Send + Sync> = match kind {
            ErrorKind::Unauthenticated(error @ ResponseAuthError::Stale { .. }) => error.into(),
            ErrorKind::Signature(error @ SignatureError::Stale { .. }) => error.into(),
            kind => return kind,
        };
        ErrorKind::ClockSkew(self.skew(route, signed_at, now, None, Skewed::Answer(error)))
    }

    fn skew(
        &self,
        route: &Route,
        theirs: UnixMillis,
        ours: UnixMillis,
        told: Option<ClockFault>,
        what: Skewed,
    ) -> ClockSkew {
        let nanos = theirs.to_nanos().get().saturating_sub(ours.to_nanos().get());
        let key = route.peer.key();
        let judged = self.shared.registry.judge_clocks(key.as_ref(), nanos);
        ClockSkew {
            theirs,
            ours,
            fault: judged.or_else(|| told.map(ClockFault::from_the_other_side)),
            judged_by_peer: judged.is_none(),
            what,
        }
    }
}

/// What a refusal says about the clocks, if it is one for the time of the request. Naras that do not say their time
/// say at least the date, as all of HTTP does.
fn refused_for_time(answer: &StatusAnswer, headers: &HeaderMap) -> Option<ClockRefusal> {
    if answer.status != StatusCode::UNAUTHORIZED {
        return None;
    }
    let from_date = || {
        let date = date(headers, DATE).filter(|_| answer.text.starts_with(REFUSED_FOR_TIME))?;
        let since = date.duration_since(UNIX_EPOCH).ok()?;
        Some(ClockRefusal {
            request: None,
            receiver: UnixMillis::new(i64::try_from(since.as_millis()).ok()?),
            fault: None,
        })
    };
    ClockRefusal::from_headers(headers).or_else(from_date)
}
