use std::time::Duration;

use http::{HeaderName, HeaderValue};
use nara_proto::clock_offset::{ClockOffset, ClockSample};
use nara_proto::endpoint::{Endpoint as _, Ping};
use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::peer::PingResponse;
use nara_proto::sync::SyncRequest;
use nara_proto::v1::ResponseAuthError;

use super::error::{ClientError, DiscoveryProblem, Problem};
use super::exchange::{Answer, Exchange, traced};
use super::handle::PeerHandle;
use super::request::Outgoing;
use super::resolve::Route;
use super::verified::PingReport;
use crate::registry::{KeySource, PinnedKey};

/// The unsigned name of the caller on pings (docs/protocol/v1.md, section 4.2).
const FROM_HEADER: HeaderName = HeaderName::from_static("x-nara-from");

impl PeerHandle {
    /// Measures the round trip to the peer, up to the end of the answer. The ping carries our name, unsigned.
    ///
    /// # Errors
    /// [`ClientError`], also if the answer names a nara other than the registered one.
    pub async fn ping(&self) -> Result<PingReport, ClientError> {
        let exchange = &*self.exchange;
        traced(&self.peer, Ping::PATH, async {
            let route = exchange.route(&self.peer)?;
            let fail = |problem| ClientError::new(&route, problem);
            let mut outgoing = Outgoing::new::<Ping>(&()).map_err(fail)?;
            let name = HeaderValue::from_bytes(exchange.local.name().as_str().as_bytes());
            let name = name.expect("a name has no control characters");
            outgoing.headers.insert(FROM_HEADER, name);
            let answer = exchange
                .call_on::<Ping>(route, &outgoing, self.deadline())
                .await?;
            check_name(&answer.route, &answer.value)
                .map_err(|problem| ClientError::new(&answer.route, problem))?;
            Ok(report(exchange, answer))
        })
        .await
    }

    /// Returns how far the clock of the peer is ahead of ours: the offset proven within the last ten minutes, or
    /// else the offset in an answer that the peer is asked to sign now. `None`: the answer is not signed with the
    /// pinned key, or our clock was set back meanwhile.
    ///
    /// # Errors
    /// [`ClientError`], for example if the peer does not know us and refuses the request.
    pub async fn measure_clock(&self) -> Result<Option<ClockOffset>, ClientError> {
        let proven = || self.known().and_then(|peer| peer.clock_offset());
        if let Some(offset) = proven() {
            return Ok(Some(offset));
        }
        // Even if the content is invalid, a signed answer proves the time.
        let asked = self.fetch_sync_events(SyncRequest::recent(1)).await;
        match proven() {
            None => asked.map(|_| None),
            proven => Ok(proven),
        }
    }
}

/// Builds the report of an answer, with what is verified of it.
fn report(exchange: &Exchange, answer: Answer<PingResponse>) -> PingReport {
    let Answer {
        value,
        route,
        arrival,
        ..
    } = answer;
    let registry = &exchange.registry;
    let key = PublicKey::from_base64(&value.public_key).ok();
    let pinned = route.expected.key.as_ref();
    let key_matches = pinned.map(|pinned| key == Some(pinned.key));
    let name = NaraName::new(&value.from).ok();
    let capability = name.zip(key).and_then(|(name, key)| {
        exchange
            .verifier
            .believed_capability(arrival.capability.map(|boxed| *boxed), &name, &key)
    });
    if let Some(capability) = capability.as_ref().filter(|_| key_matches == Some(true)) {
        exchange.verifier.learn_capability(&route.peer, capability);
    }
    if let (Some(pinned), Some(key)) = (pinned, key)
        && pinned.key != key
    {
        // Reports the conflict to subscribers of the registry; the pinned key stays.
        let _ = exchange.verifier.report_key(&PinnedKey {
            key,
            source: KeySource::Ping(route.address),
            learned_at: exchange.clocks.clock().now_millis(),
            ..pinned.clone()
        });
    }
    // The time in `/ping` has nanosecond resolution.
    let told = ClockSample::of_answer(
        value.t,
        Duration::ZERO,
        arrival.asked.sent,
        arrival.asked.received,
    );
    let by_connection = pinned.filter(|pinned| arrival.channel_key == Some(pinned.key));
    let registered = pinned.and_then(|pinned| registry.by_name(pinned.name.as_str()));
    let peer = registered.as_ref().unwrap_or(&route.peer);
    if key_matches == Some(true) {
        peer.note_alive(arrival.at);
    }
    if let (Some(pinned), Some(sample)) = (by_connection, told) {
        registry.learn_clock(peer, &pinned.key, sample, arrival.at);
    }
    let proven = peer.clock_offset();
    if let (Some(true), Some(sample)) = (key_matches, told) {
        registry.clock_was_said(peer, sample.offset().nanos());
    }
    registry.learn_distance(peer, arrival.rtt, None);
    PingReport {
        clock_offset: proven.or_else(|| told.map(ClockSample::offset)),
        clock_proven: proven.is_some(),
        rtt: arrival.rtt,
        dial: arrival.dial,
        security: arrival.security,
        key_matches,
        capability,
        response: value,
    }
}

fn check_name(route: &Route, answer: &PingResponse) -> Result<(), Problem> {
    let Some(expected) = &route.expected.name else {
        return Ok(());
    };
    if expected.as_str() == answer.from {
        return Ok(());
    }
    let got = NaraName::new(&answer.from).map_err(|_| Problem::Discovery(DiscoveryProblem::NoName))?;
    Err(Problem::Unauthenticated(ResponseAuthError::WrongResponder {
        expected: expected.clone(),
        got,
    }))
}
