//! Clock offsets: learns them from verified answers, and explains calls that failed because of time.

use std::error::Error;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::header::DATE;
use http::{HeaderMap, StatusCode};
use nara_proto::clock_offset::{ClockFault, ClockRefusal, ClockSample};
use nara_proto::time::{UnixMillis, UnixNanos};
use nara_proto::v1::{ResponseAuthError, Stamp};
use nara_proto::v2::SignatureError;

use super::error::Problem;
use super::refusal::{ClockSkew, Skewed, StatusAnswer};
use super::retry_after::date;
use super::verified::Verification;
use crate::clock::Clock;
use crate::clock_watch::ClockWatch;
use crate::registry::{Peer, PeerRegistry};

/// How v1 peers and we begin the reason of a refusal because of the time (docs/protocol/v1.md, section 4.3).
const REFUSED_FOR_TIME: &str = "Authentication failed: timestamp too old or in future";

/// The interval, by our clock, in which a peer made its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) sent: UnixNanos,
    pub(super) received: UnixNanos,
}

impl Asked {
    /// Starts the interval now. [`Asked::answered`] completes it.
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

/// Our clock, and the known offsets of peers.
#[derive(Debug)]
pub(super) struct PeerClocks {
    clock: Arc<dyn Clock>,
    watch: ClockWatch,
    registry: PeerRegistry,
    /// Timestamps for requests signed by our clock: strictly increasing.
    stamp: Mutex<Stamp>,
    compensate: bool,
}

impl PeerClocks {
    pub(super) fn new(clock: Arc<dyn Clock>, registry: PeerRegistry, compensate: bool) -> Self {
        Self {
            watch: ClockWatch::new(clock.clone()),
            clock,
            registry,
            stamp: Mutex::default(),
            compensate,
        }
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Returns the timestamp for signing a request to a peer.
    pub(super) fn signing_time(&self, peer: &Peer) -> UnixMillis {
        let look = self.watch.look();
        if look.step.is_some() {
            self.registry.clock_was_set();
        }
        let now = look.now;
        peer.signing_time(now, self.compensate).unwrap_or_else(|| {
            // A stamp stays valid even if a thread panicked with the lock held.
            let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
            stamp.next(now)
        })
    }

    /// Learns the clock offset of a peer from a verified answer, and that the peer is reachable at the called
    /// address. Its registered address may be only claimed.
    pub(super) fn learn(
        &self,
        peer: &Arc<Peer>,
        verification: &Verification,
        asked: Asked,
        called: IpAddr,
        at: Instant,
    ) {
        let Verification {
            responder: Some(responder),
            key: Some(key),
            signed_at,
            ..
        } = verification
        else {
            return;
        };
        let registered = self.registry.named(responder, peer);
        let peer = registered.as_ref().unwrap_or(peer);
        peer.note_alive(at);
        self.registry.seen_at(peer, called);
        let Some(signed_at) = signed_at else { return };
        // A whole second may be rounded down, as in profile v2.
        let resolution = if signed_at.get() % 1_000 == 0 { 1_000 } else { 1 };
        let resolution = Duration::from_millis(resolution);
        let told = signed_at.to_nanos();
        if let Some(sample) = ClockSample::of_answer(told, resolution, asked.sent, asked.received) {
            self.registry.learn_clock(peer, key, sample, at);
        }
    }

    /// Returns the problem of a refusal, with details if the request was refused because of its time.
    pub(super) fn explain_refusal(
        &self,
        peer: &Peer,
        problem: Problem,
        headers: &HeaderMap,
        asked: Asked,
    ) -> Problem {
        let Problem::Status(answer) = problem else {
            return problem;
        };
        let Some(refusal) = refused_for_time(&answer, headers) else {
            return Problem::Status(answer);
        };
        peer.time_was_refused();
        let ours = asked.received.to_millis();
        let what = Skewed::Request(answer);
        Problem::ClockSkew(self.skew(peer, refusal.receiver, ours, refusal.fault, what))
    }

    /// Returns the problem of an answer, with details if the answer is properly signed but outside the freshness
    /// window.
    pub(super) fn explain_stale_answer(
        &self,
        peer: &Peer,
        problem: Problem,
        signed_at: Option<UnixMillis>,
        now: UnixMillis,
    ) -> Problem {
        let Some(signed_at) = signed_at else {
            return problem;
        };
        let error: Box<dyn Error + Send + Sync> = match problem {
            Problem::Unauthenticated(error @ ResponseAuthError::Stale { .. }) => error.into(),
            Problem::Signature(error @ SignatureError::Stale { .. }) => error.into(),
            problem => return problem,
        };
        Problem::ClockSkew(self.skew(peer, signed_at, now, None, Skewed::Answer(error)))
    }

    fn skew(
        &self,
        peer: &Peer,
        theirs: UnixMillis,
        ours: UnixMillis,
        told: Option<ClockFault>,
        what: Skewed,
    ) -> ClockSkew {
        let nanos = theirs.to_nanos().get().saturating_sub(ours.to_nanos().get());
        self.registry.clock_was_said(peer, nanos);
        let judged = self.registry.judge_clocks(peer.key().as_ref(), nanos);
        ClockSkew {
            theirs,
            ours,
            fault: judged.or_else(|| told.map(ClockFault::from_the_other_side)),
            judged_by_peer: judged.is_none(),
            what,
        }
    }
}

/// Returns what a refusal says about the clocks, if the time of the request was its reason. Peers that do not
/// send their time still send the HTTP `Date`.
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
