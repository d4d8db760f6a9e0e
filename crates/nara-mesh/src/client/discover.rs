use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use nara_proto::clock_offset::{ClockOffset, ClockSample};
use nara_proto::endpoint::{Endpoint as _, Ping};
use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::peer::PingResponse;
use nara_proto::sync::SyncRequest;
use nara_proto::v1::ResponseAuthError;
use nara_proto::v2::{Capability, SignedCapability};
use tokio::time::Instant;

use super::address::Route;
use super::call::{FROM_HEADER, Reply, traced};
use super::error::{DiscoveryProblem, ErrorKind};
use super::outgoing::Outgoing;
use super::verify::check_channel;
use super::{CallOptions, ClientError, DiscoveredKey, MeshClient, PeerRef, PingReport};
use crate::registry::{KeySource, PinnedKey};
use crate::{Signatures, defaults};

impl MeshClient {
    /// Measures the round trip to a peer, to the end of the answer. The ping tells the peer our name, unsigned.
    ///
    /// # Errors
    /// [`ClientError`], also if the answer comes from another nara than the one that is registered.
    pub async fn ping(&self, peer: impl Into<PeerRef>) -> Result<PingReport, ClientError> {
        let peer = peer.into();
        let deadline = self.deadline(CallOptions::default());
        traced(&peer, Ping::PATH, async {
            let route = self.route(&peer)?;
            let fail = |kind| ClientError::new(&route, kind);
            let mut outgoing = Outgoing::new::<Ping>(&()).map_err(fail)?;
            let name = HeaderValue::from_bytes(self.shared.local.name().as_str().as_bytes());
            let name = name.expect("a name has no control characters");
            outgoing.headers.insert(FROM_HEADER, name);
            let answer = self.exchange_outgoing::<Ping>(route, &outgoing, deadline).await?;
            check_name(&answer.route, &answer.value).map_err(|kind| ClientError::new(&answer.route, kind))?;
            let key = PublicKey::from_base64(&answer.value.public_key).ok();
            let pinned = answer.route.expected.key.as_ref();
            let key_matches = pinned.map(|pinned| key == Some(pinned.key));
            let name = NaraName::new(&answer.value.from).ok();
            let capability = name
                .zip(key)
                .and_then(|(name, key)| self.believe(answer.capability, &name, &key));
            if let Some(capability) = capability.as_ref().filter(|_| key_matches == Some(true)) {
                let peer = &answer.route.peer;
                self.shared.registry.learn_protocol(peer, capability.into());
            }
            if let (Some(pinned), Some(key)) = (pinned, key)
                && pinned.key != key
            {
                // Nothing is changed by it, but whoever watches the registry is told.
                let _ = self.report_key(&PinnedKey {
                    key,
                    source: KeySource::Ping(answer.route.address),
                    learned_at: self.shared.clock.now_millis(),
                    ..pinned.clone()
                });
            }
            // The time that `/ping` tells is in nanoseconds.
            let told = ClockSample::of_answer(
                answer.value.t,
                Duration::ZERO,
                answer.asked.sent,
                answer.asked.received,
            );
            let by_connection = pinned.filter(|pinned| answer.channel_key == Some(pinned.key));
            let registry = &self.shared.registry;
            let registered = pinned.and_then(|pinned| registry.by_name(pinned.name.as_str()));
            let peer = registered.as_ref().unwrap_or(&answer.route.peer);
            if let (Some(pinned), Some(sample)) = (by_connection, told) {
                registry.learn_clock(peer, &pinned.key, sample);
            }
            let proven = peer.clock_offset();
            Ok(PingReport {
                clock_offset: proven.or_else(|| told.map(ClockSample::offset)),
                clock_proven: proven.is_some(),
                rtt: answer.rtt,
                dial: answer.dial,
                security: answer.security,
                key_matches,
                capability,
                response: answer.value,
            })
        })
        .await
    }

    /// How far the clock of a peer is ahead of ours, by what it has proven in the last ten minutes, and otherwise by an
    /// answer that it is asked to sign now. `None`: the answer is not signed by the pinned key, or our clock was set
    /// back meanwhile.
    ///
    /// # Errors
    /// [`ClientError`]: a peer that does not know us refuses the request, for one.
    pub async fn measure_clock(&self, peer: impl Into<PeerRef>) -> Result<Option<ClockOffset>, ClientError> {
        let peer = peer.into();
        let proven = || self.peer(&peer).and_then(|peer| peer.clock_offset());
        if let Some(offset) = proven() {
            return Ok(Some(offset));
        }
        // Whatever is wrong inside of an answer, who signed it has told the time.
        let asked = self.fetch_sync_events(&peer, SyncRequest::recent(1)).await;
        match proven() {
            None => asked.map(|_| None),
            proven => Ok(proven),
        }
    }

    /// Asks whoever is at an address for its name and key, within [`defaults::DISCOVERY_TIMEOUT`]. The answer
    /// is not signed and nothing is pinned: who believes it, trusts on first use.
    ///
    /// # Errors
    /// [`ClientError`] if there is no answer, no valid name or key in it, or another name than `expected`.
    pub async fn discover_key(
        &self,
        address: SocketAddr,
        expected: Option<&NaraName>,
    ) -> Result<DiscoveredKey, ClientError> {
        let deadline = Instant::now() + defaults::DISCOVERY_TIMEOUT;
        self.discover_key_until(address, expected, deadline).await
    }

    pub(super) async fn discover_key_until(
        &self,
        address: SocketAddr,
        expected: Option<&NaraName>,
        deadline: Instant,
    ) -> Result<DiscoveredKey, ClientError> {
        let deadline = deadline.min(Instant::now() + defaults::DISCOVERY_TIMEOUT);
        // A request may claim to come from anywhere, so the breaker of a peer at this address is left alone.
        let route = Route::to_stranger(&self.shared.registry, address);
        let fail = |kind| ClientError::new(address, kind);
        let outgoing = Outgoing::new::<Ping>(&()).map_err(fail)?;
        let reply = self.send(&route, &outgoing, deadline).await.map_err(fail)?;
        if reply.status != StatusCode::OK {
            return Err(fail(reply.into_status_error(false)));
        }
        self.read_introduction(&reply, expected).map_err(fail)
    }

    /// What a `/ping` answer with status 200 says about who gave it.
    pub(super) fn read_introduction(
        &self,
        reply: &Reply,
        expected: Option<&NaraName>,
    ) -> Result<DiscoveredKey, ErrorKind> {
        let answer = Ping::decode(&reply.body).map_err(ErrorKind::Decode)?;
        let (name, key) = read_key(&answer, expected).map_err(ErrorKind::Discovery)?;
        check_channel(reply.channel.as_ref(), &key)?;
        let capability = SignedCapability::from_headers(&reply.headers).unwrap_or_default();
        Ok(DiscoveredKey {
            capability: self.believe(capability, &name, &key),
            name,
            key,
        })
    }

    /// A capability, if it was signed just now by the nara with this name and key.
    fn believe(
        &self,
        capability: Option<SignedCapability>,
        name: &NaraName,
        key: &PublicKey,
    ) -> Option<Capability> {
        let capability = capability.filter(|_| self.shared.signatures == Signatures::V2AndV1)?;
        match capability.verify(name, key, self.shared.clock.now_millis()) {
            Ok(capability) => Some(capability.clone()),
            Err(error) => {
                tracing::warn!(%name, %error, "capability refused");
                None
            }
        }
    }
}

fn check_name(route: &Route, answer: &PingResponse) -> Result<(), ErrorKind> {
    let Some(expected) = &route.expected.name else {
        return Ok(());
    };
    if expected.as_str() == answer.from {
        return Ok(());
    }
    let got = NaraName::new(&answer.from).map_err(|_| ErrorKind::Discovery(DiscoveryProblem::NoName))?;
    Err(ErrorKind::Unauthenticated(ResponseAuthError::WrongResponder {
        expected: expected.clone(),
        got,
    }))
}

fn read_key(
    answer: &PingResponse,
    expected: Option<&NaraName>,
) -> Result<(NaraName, PublicKey), DiscoveryProblem> {
    let name = NaraName::new(&answer.from).map_err(|_| DiscoveryProblem::NoName)?;
    if let Some(expected) = expected.filter(|&expected| *expected != name) {
        return Err(DiscoveryProblem::OtherNara {
            expected: expected.clone(),
            got: name,
        });
    }
    let key = PublicKey::from_base64(&answer.public_key).map_err(|_| DiscoveryProblem::NoKey)?;
    Ok((name, key))
}
