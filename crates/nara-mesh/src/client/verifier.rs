//! Determines who answered, and verifies the proof.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use nara_proto::endpoint::{Endpoint as _, Ping};
use nara_proto::go_json::JsonError;
use nara_proto::identity::{KeyId, NaraName, PublicKey};
use nara_proto::peer::PingResponse;
use nara_proto::time::UnixMillis;
use nara_proto::v1::ResponseAuthError;
use nara_proto::v2::{Capability, ContentDigest, SignedCapability};
use tokio::time::Instant;

use super::caller::Caller;
use super::clocks::PeerClocks;
use super::error::{ClientError, DiscoveryProblem, Problem};
use super::proof::AnswerProof;
use super::refusal::known_key;
use super::reply::{Reply, ReplyHead};
use super::request::Outgoing;
use super::resolve::Route;
use super::verified::{DiscoveredKey, Verification};
use crate::erased::Erased;
use crate::identity::LocalNara;
use crate::offload::offload;
use crate::registry::{KeyRefused, KeySource, KnownKey, Peer, PeerProtocol, PeerRegistry, PinnedKey};
use crate::seldom::warn_seldom;
use crate::tls::{KeyMismatch, SecureChannel};
use crate::{Signatures, defaults};

/// Larger bodies are hashed and decoded off the runtime's worker threads.
const OFFLOAD_BYTES: usize = 64 << 10;

/// The refusal of a server that looks only for a v1 signature (docs/protocol/v1.md, section 4.3).
const LOOKS_FOR_V1: &[u8] = b"Authentication failed: missing auth headers";

/// Decodes a body.
pub(super) type Decode = fn(&Bytes) -> Result<Erased, JsonError>;

/// Decides which answers to trust: keys, trust, proofs, first contact and conflicts.
#[derive(Debug)]
pub(super) struct AnswerVerifier {
    pub(super) local: LocalNara,
    pub(super) registry: PeerRegistry,
    pub(super) caller: Arc<Caller>,
    pub(super) clocks: Arc<PeerClocks>,
    pub(super) signatures: Signatures,
    pub(super) accept_unverified: bool,
}

/// The nara that answered.
#[derive(Debug)]
pub(super) struct Responder {
    pub(super) pinned: PinnedKey,
    /// Whether its key is not pinned yet.
    pub(super) is_new: bool,
    /// The capability that it claims, signed with its key.
    pub(super) protocol: PeerProtocol,
}

impl AnswerVerifier {
    /// Verifies an answer and decodes its body.
    pub(super) fn verify(
        &self,
        route: &Route,
        reply: Reply,
        deadline: Instant,
        decode: Decode,
    ) -> impl Future<Output = Result<(Erased, Verification), Problem>> {
        let Reply { head, body, .. } = reply;
        async move {
            let large = body.len() > OFFLOAD_BYTES;
            if self.accept_unverified {
                let now = self.clocks.clock().now_millis();
                let known = self.with_known_key(route, &head);
                return offload(large, move || {
                    let verification =
                        known.and_then(|(proof, pinned)| proof.verify(&pinned, &body, now).ok());
                    let value = decode(&body).map_err(Problem::Decode)?;
                    Ok((value, verification.unwrap_or_default()))
                })
                .await;
            }
            let check = move |proof: &AnswerProof, pinned: &PinnedKey, now| {
                let verification = proof.verify(pinned, &body, now)?;
                let value = decode(&body).map_err(Problem::Decode)?;
                Ok((value, verification))
            };
            self.believe(route, &head, deadline, large, check).await
        }
    }

    /// Verifies the head of an answer, and returns the digest that its body must have. `None`: it can only be
    /// verified together with its body.
    pub(super) async fn verify_head(
        &self,
        route: &Route,
        head: &ReplyHead,
        deadline: Instant,
    ) -> Result<Option<(Option<ContentDigest>, Verification)>, Problem> {
        if self.accept_unverified {
            return Ok(Some((None, Verification::open())));
        }
        if matches!(
            AnswerProof::read(head, route.expected.name.as_ref()),
            Ok(AnswerProof::V1(_))
        ) {
            return Ok(None);
        }
        let check = |proof: &AnswerProof, pinned: &PinnedKey, now| {
            let verified = proof.verify_head(pinned, now);
            let (verification, digest) = verified.unwrap_or(Err(Problem::Downgrade))?;
            Ok((digest, verification))
        };
        self.believe(route, head, deadline, false, check).await.map(Some)
    }

    /// Identifies the responder and verifies its proof.
    async fn believe<T: Send + 'static>(
        &self,
        route: &Route,
        head: &ReplyHead,
        deadline: Instant,
        large: bool,
        check: impl FnOnce(&AnswerProof, &PinnedKey, UnixMillis) -> Result<(T, Verification), Problem>
        + Send
        + 'static,
    ) -> Result<(T, Verification), Problem> {
        let proof = self.read_proof(route, head)?;
        let name = proof.name().clone();
        self.check_trusted(&name, &route.peer)?;
        let responder = self.responder(route, &name, deadline).await?;
        check_channel(head.channel.as_ref(), &responder.pinned.key)?;
        // Read the clock after steps that may take seconds: freshness is judged by this time.
        let now = if responder.is_new {
            self.clocks.clock().now_millis()
        } else {
            head.asked.received.to_millis()
        };
        let Responder {
            pinned,
            is_new,
            protocol,
        } = responder;
        let signed_at = proof.signed_at();
        let checking = offload(large, move || (check(&proof, &pinned, now), pinned));
        let (verified, pinned) = checking.await;
        if !is_new && verified.as_ref().is_err_and(Problem::may_be_another_key) {
            Box::pin(self.look_for_conflict(route, &name, deadline)).await?;
        }
        let (value, verification) = verified.map_err(|problem| {
            self.clocks
                .explain_stale_answer(&route.peer, problem, signed_at, now)
        })?;
        let responder = Responder {
            pinned,
            is_new,
            protocol,
        };
        self.settle(route, responder, verification.bound)?;
        if head.sent.v1.is_some() || head.sent.v2.is_some() || head.sent.trusts_channel {
            self.note_own_key(route, head, true);
        }
        Ok((value, verification))
    }

    /// Records whether the peer accepts our key as ours, so that our operator learns if it does not.
    fn note_own_key(&self, route: &Route, head: &ReplyHead, proven: bool) {
        let refused = matches!(head.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        match refused.then(|| known_key(&head.headers)).flatten() {
            // It refuses for another reason.
            Some(KnownKey::Other(key)) if key == KeyId::from(&self.local.public_key()) => {
                self.registry.own_key_accepted(&route.peer, proven);
            }
            Some(known) => self
                .registry
                .own_key_refused(&route.peer, &self.local, known, proven),
            None if proven && !refused => self.registry.own_key_accepted(&route.peer, true),
            None => {}
        }
    }

    /// Decodes an answer of an open endpoint.
    pub(super) fn decode_open(
        &self,
        reply: Reply,
        decode: Decode,
    ) -> impl Future<Output = Result<(Erased, Verification), Problem>> + use<> {
        let large = reply.body.len() > OFFLOAD_BYTES;
        offload(large, move || {
            let value = decode(&reply.body).map_err(Problem::Decode)?;
            Ok((value, Verification::open()))
        })
    }

    /// Returns the problem of a refusal by a signed endpoint.
    pub(super) fn refused(&self, route: &Route, reply: Reply) -> Problem {
        let head = &reply.head;
        let only_v2 = head.sent.v2.is_some() && head.sent.v1.is_none();
        if only_v2 && head.status == StatusCode::UNAUTHORIZED && reply.body.starts_with(LOOKS_FOR_V1) {
            let introduced = || route.introduction.as_ref().map(|introduction| &introduction.name);
            let name = route.expected.name.as_ref().or_else(introduced);
            let known = name.and_then(|name| self.registry.by_name(name.as_str()));
            self.registry
                .report_downgrade(known.as_ref().unwrap_or(&route.peer), "response", "v2 signature");
            return Problem::Downgrade;
        }
        let verified = self.is_signed_by_known_key(route, &reply);
        self.note_own_key(route, &reply.head, verified);
        self.status_problem(route, reply, verified)
    }

    /// Returns the problem of an answer with a status other than 200.
    pub(super) fn status_problem(&self, route: &Route, reply: Reply, verified: bool) -> Problem {
        let (headers, asked) = (reply.head.headers.clone(), reply.head.asked);
        let problem = reply.into_problem(verified);
        self.clocks.explain_refusal(&route.peer, problem, &headers, asked)
    }

    /// Refuses a nara that the operator banned.
    pub(super) fn check_trusted(&self, name: &NaraName, likely: &Arc<Peer>) -> Result<(), Problem> {
        let peer = self.registry.named(name, likely);
        if peer.is_some_and(|peer| peer.is_untrusted()) {
            return Err(Problem::Untrusted(name.clone()));
        }
        Ok(())
    }

    /// Reads the proof of an answer, and refuses one weaker than the peer has proven before.
    fn read_proof(&self, route: &Route, reply: &ReplyHead) -> Result<AnswerProof, Problem> {
        let proof = AnswerProof::read(reply, route.expected.name.as_ref());
        match &proof {
            Ok(proof) => {
                check_responder(route, proof.name())?;
                if !proof.is_bound() {
                    self.check_downgrade(proof.name(), reply.sent.v2.is_some())?;
                }
            }
            Err(Problem::Downgrade) => {
                self.registry
                    .report_downgrade(&route.peer, "response", "v2 signature");
            }
            Err(_) => {}
        }
        proof
    }

    /// Refuses a v1 answer to a v2 request if the responder has proven v2. A peer called by address alone is
    /// identified by the name in its answer.
    pub(super) fn check_downgrade(&self, responder: &NaraName, asked_by_v2: bool) -> Result<(), Problem> {
        let known = self.registry.by_name(responder.as_str());
        match known.filter(|peer| asked_by_v2 && peer.protocol().v2) {
            Some(peer) => {
                self.registry.report_downgrade(&peer, "response", "v2 signature");
                Err(Problem::Downgrade)
            }
            None => Ok(()),
        }
    }

    /// Returns whether an error answer carries a valid signature of the peer. No key is learned for it.
    fn is_signed_by_known_key(&self, route: &Route, reply: &Reply) -> bool {
        let now = self.clocks.clock().now_millis();
        self.with_known_key(route, &reply.head)
            .is_some_and(|(proof, pinned)| proof.verify(&pinned, &reply.body, now).is_ok())
    }

    fn with_known_key(&self, route: &Route, reply: &ReplyHead) -> Option<(AnswerProof, PinnedKey)> {
        let proof = AnswerProof::read(reply, route.expected.name.as_ref()).ok()?;
        check_responder(route, proof.name()).ok()?;
        let pinned = self.known_key(route, proof.name())?;
        Some((proof, pinned))
    }

    /// Returns the pinned key of the called peer, or else of the name that answered.
    fn known_key(&self, route: &Route, responder: &NaraName) -> Option<PinnedKey> {
        let of_peer = route.peer.with_info(|info| {
            let pinned = info.key.as_ref();
            pinned.filter(|pinned| pinned.name == *responder).cloned()
        });
        of_peer.or_else(|| {
            let peer = self.registry.by_name(responder.as_str())?;
            peer.with_info(|info| info.key.clone())
        })
    }
}

/// First contact: finds the name and key of the nara at an address.
impl AnswerVerifier {
    /// Asks an unknown address for its name, so that a signed request can name its recipient. Without a usable
    /// answer, the request has no recipient, as in v1.
    pub(super) async fn introduce(&self, route: &mut Route, deadline: Instant) -> Result<(), Problem> {
        if self.signatures == Signatures::V1Only || self.accept_unverified || route.recipient().is_some() {
            return Ok(());
        }
        Box::pin(self.meet(route, deadline)).await
    }

    async fn meet(&self, route: &mut Route, deadline: Instant) -> Result<(), Problem> {
        let ping = Outgoing::new::<Ping>(&())?;
        let reply = self.caller.send(route, &ping, deadline).await?;
        route.answered_at(reply.head.address);
        if reply.head.status == StatusCode::OK
            && let Ok(introduction) = self.read_introduction(&reply, None)
        {
            if !self.registry.trust().asks_strangers() && self.known_key(route, &introduction.name).is_none()
            {
                return Err(Problem::KeyRefused(KeyRefused {
                    name: introduction.name,
                    offered: introduction.key,
                    offered_by: KeySource::Ping(reply.head.address),
                    reason: "this nara learns no new keys (trust policy `pinned` or `closed`)".into(),
                }));
            }
            route.introduction = Some(Box::new(introduction));
        }
        Ok(())
    }

    /// Asks the nara at an address for its name and key.
    pub(super) async fn discover_key(
        &self,
        address: SocketAddr,
        expected: Option<&NaraName>,
        deadline: Instant,
    ) -> Result<DiscoveredKey, ClientError> {
        let deadline = deadline.min(Instant::now() + defaults::DISCOVERY_TIMEOUT);
        // The source address of a request may be forged, so this call must not affect the breaker of a peer
        // there.
        let route = Route::to_stranger(&self.registry, address);
        let fail = |problem| ClientError::new(address, problem);
        let ping = Outgoing::new::<Ping>(&()).map_err(fail)?;
        let reply = self.caller.send(&route, &ping, deadline).await.map_err(fail)?;
        if reply.head.status != StatusCode::OK {
            return Err(fail(reply.into_problem(false)));
        }
        self.read_introduction(&reply, expected).map_err(fail)
    }

    /// Reads the name, key and capability in a `/ping` answer with status 200.
    fn read_introduction(
        &self,
        reply: &Reply,
        expected: Option<&NaraName>,
    ) -> Result<DiscoveredKey, Problem> {
        let answer = Ping::decode(&reply.body).map_err(Problem::Decode)?;
        let (name, key) = read_key(&answer, expected).map_err(Problem::Discovery)?;
        check_channel(reply.head.channel.as_ref(), &key)?;
        let capability = SignedCapability::from_headers(&reply.head.headers).unwrap_or_default();
        Ok(DiscoveredKey {
            capability: self.believed_capability(capability, &name, &key),
            name,
            key,
        })
    }

    /// Returns a capability if it was freshly signed by the nara with this name and key.
    pub(super) fn believed_capability(
        &self,
        capability: Option<SignedCapability>,
        name: &NaraName,
        key: &PublicKey,
    ) -> Option<Capability> {
        let capability = capability.filter(|_| self.signatures == Signatures::V2AndV1)?;
        match capability.verify(name, key, self.clocks.clock().now_millis()) {
            Ok(capability) => Some(capability.clone()),
            Err(error) => {
                warn_seldom!(%name, %error, "capability refused");
                None
            }
        }
    }

    /// Asks a peer for its capability, unless that is known. Best effort.
    pub(super) async fn ask_for_capability(&self, route: &Route, deadline: Instant) {
        let Some(pinned) = route.peer.info().key else {
            return;
        };
        let asked = self
            .discover_key(route.address, Some(&pinned.name), deadline)
            .await;
        if let Ok(discovered) = asked
            && discovered.key == pinned.key
            && let Some(capability) = discovered.capability
        {
            self.learn_capability(&route.peer, &capability);
        }
    }

    /// Finds out whether the handshake alone authenticates requests to a peer, if this nara would omit
    /// signatures. Asks once.
    pub(super) async fn ask_for_handshake(&self, route: &Route, deadline: Instant) {
        if self.caller.may_leave_out_signatures(route) && route.peer.takes_handshake().is_none() {
            // A later `/ping` answer may still say so.
            route.peer.note_handshake(false);
            Box::pin(self.ping_for_capability(route, deadline)).await;
        }
    }

    /// Learns the capability of a peer over a regular connection. Best effort.
    async fn ping_for_capability(&self, route: &Route, deadline: Instant) {
        let (Some(pinned), Ok(ping)) = (route.peer.info().key, Outgoing::new::<Ping>(&())) else {
            return;
        };
        if let Ok(reply) = self.caller.send(route, &ping, deadline).await
            && reply.head.status == StatusCode::OK
            && let Ok(said) = self.read_introduction(&reply, Some(&pinned.name))
            && said.key == pinned.key
            && let Some(capability) = said.capability
        {
            self.learn_capability(&route.peer, &capability);
        }
    }

    /// Records the capability of a peer, signed with its pinned key.
    pub(super) fn learn_capability(&self, peer: &Peer, capability: &Capability) {
        self.registry.learn_protocol(peer, capability.into());
        peer.note_streams(capability.streams);
        peer.note_handshake(capability.handshake);
    }

    /// Returns the key of the responder: the known one, or one fetched now.
    pub(super) async fn responder(
        &self,
        route: &Route,
        name: &NaraName,
        deadline: Instant,
    ) -> Result<Responder, Problem> {
        if let Some(pinned) = self.known_key(route, name) {
            return Ok(Responder {
                pinned,
                is_new: false,
                protocol: PeerProtocol::default(),
            });
        }
        // Boxed, as it is rare and large.
        Box::pin(self.learn_key(route, name, deadline)).await
    }

    /// Asks a responder on first contact for its key, at the address of the call, to which trust on first use
    /// refers.
    async fn learn_key(
        &self,
        route: &Route,
        responder: &NaraName,
        deadline: Instant,
    ) -> Result<Responder, Problem> {
        let responder = responder.clone();
        if !self.registry.trust().asks_strangers() {
            return Err(Problem::KeyNotPinned { responder });
        }
        let introduction = route.introduction.clone();
        let discovered = match introduction.filter(|introduction| introduction.name == responder) {
            Some(introduction) => *introduction,
            None => self
                .discover_key(route.address, Some(&responder), deadline)
                .await
                .map_err(|discovery| Problem::KeyNotLearned { responder, discovery })?,
        };
        let protocol = discovered.capability.as_ref().map(PeerProtocol::from);
        Ok(Responder {
            pinned: PinnedKey {
                name: discovered.name,
                id: route.expected.id.clone(),
                key: discovered.key,
                source: KeySource::Ping(route.address),
                learned_at: self.clocks.clock().now_millis(),
            },
            is_new: true,
            protocol: protocol.unwrap_or_default(),
        })
    }
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

/// Refuses an answer of a nara other than the one called.
pub(super) fn check_responder(route: &Route, responder: &NaraName) -> Result<(), Problem> {
    match &route.expected.name {
        Some(expected) if expected != responder => {
            Err(Problem::Unauthenticated(ResponseAuthError::WrongResponder {
                expected: expected.clone(),
                got: responder.clone(),
            }))
        }
        _ => Ok(()),
    }
}

/// Refuses a nara that relays the answers of another one over its own secure connection.
fn check_channel(channel: Option<&SecureChannel>, key: &PublicKey) -> Result<(), Problem> {
    match channel {
        Some(channel) if channel.peer_key != *key => Err(Problem::OtherKey(KeyMismatch {
            pinned: *key,
            got: channel.peer_key,
        })),
        _ => Ok(()),
    }
}
