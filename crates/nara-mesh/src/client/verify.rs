//! Who answered, and can it be proven?

use http::StatusCode;
use nara_proto::endpoint::{Authentication, Endpoint};
use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::time::UnixMillis;
use nara_proto::v1::ResponseAuthError;
use tokio::time::Instant;

use super::address::Route;
use super::call::Reply;
use super::error::ErrorKind;
use super::proof::AnswerProof;
use super::{MeshClient, Verification};
use crate::registry::{KeyConflict, KeySource, PeerInfo, PeerProtocol, PinnedKey};
use crate::tls::{KeyMismatch, SecureChannel, TlsFailure};

/// Who answers.
#[derive(Debug)]
pub(super) struct Responder {
    pub(super) pinned: PinnedKey,
    /// Whether its key is not pinned yet.
    pub(super) is_new: bool,
    /// What it says, signed with its key, that it can do.
    protocol: PeerProtocol,
}

/// Bodies beyond this are hashed and decoded off the threads that serve everyone.
const OFFLOAD_BYTES: usize = 64 << 10;

/// What a server says that looks for the inherited signature only, to a request with another one (docs/protocol/v1.md, section
/// 4.3).
const LOOKS_FOR_V1: &[u8] = b"Authentication failed: missing auth headers";

impl MeshClient {
    /// Verifies and decodes an answer.
    pub(super) async fn accept<E: Endpoint>(
        &self,
        route: &Route,
        reply: Reply,
        deadline: Instant,
    ) -> Result<(E::Response, Verification), ErrorKind>
    where
        E::Response: 'static,
    {
        let signed = E::AUTHENTICATION == Authentication::Signed;
        let keys = self.shared.keys.clone();
        if reply.status != StatusCode::OK {
            return Err(if signed {
                self.refused(route, reply)
            } else {
                self.status_error(route, reply, false)
            });
        }
        let large = reply.body.len() > OFFLOAD_BYTES;
        if !signed {
            let value = offload(large, move || E::decode(&reply.body)).await;
            return Ok((value.map_err(ErrorKind::Decode)?, Verification::open()));
        }
        if self.shared.accept_unverified {
            let now = self.shared.clock.now_millis();
            let known = self.with_known_key(route, &reply);
            return offload(large, move || {
                let verification =
                    known.and_then(|(proof, pinned)| proof.verify(&keys, &pinned, &reply.body, now).ok());
                let value = E::decode(&reply.body).map_err(ErrorKind::Decode)?;
                Ok((value, verification.unwrap_or_default()))
            })
            .await;
        }

        let proof = self.read_proof(route, &reply)?;
        let name = proof.name().clone();
        self.check_trusted(&name)?;
        let responder = self.responder(route, &name, deadline).await?;
        check_channel(reply.channel.as_ref(), &responder.pinned.key)?;
        // Read after what may take seconds, so that it is the time at which freshness is judged.
        let now = self.shared.clock.now_millis();
        let pinned = responder.pinned.clone();
        let signed_at = proof.signed_at();
        let verified = offload(large, move || {
            let verification = proof.verify(&keys, &pinned, &reply.body, now)?;
            let value = E::decode(&reply.body).map_err(ErrorKind::Decode)?;
            Ok::<_, ErrorKind>((value, verification))
        })
        .await;
        if !responder.is_new && verified.as_ref().is_err_and(ErrorKind::may_be_another_key) {
            self.look_for_conflict(route, &name, deadline).await?;
        }
        let (value, verification) =
            verified.map_err(|kind| self.explain_stale_answer(route, kind, signed_at, now))?;
        self.settle(route, responder, verification.bound)?;
        Ok((value, verification))
    }

    /// The signature of an answer, if it is no less than the peer has proven that it can do.
    fn read_proof(&self, route: &Route, reply: &Reply) -> Result<AnswerProof, ErrorKind> {
        let proof = AnswerProof::read(reply);
        let registry = &self.shared.registry;
        match &proof {
            Ok(proof) => {
                check_responder(route, proof.name())?;
                // Called by its address alone, it is known by the name with which it answers.
                let known = registry.by_name(proof.name().as_str());
                if let Some(peer) = known.filter(|peer| reply.sent.v2.is_some() && peer.protocol().v2)
                    && !proof.is_bound()
                {
                    registry.report_downgrade(&peer, "response", "v2 signature");
                    return Err(ErrorKind::Downgrade);
                }
            }
            Err(ErrorKind::Downgrade) => {
                registry.report_downgrade(&route.peer, "response", "v2 signature");
            }
            Err(_) => {}
        }
        proof
    }

    /// The key of who answers: known, or asked for now.
    pub(super) async fn responder(
        &self,
        route: &Route,
        name: &NaraName,
        deadline: Instant,
    ) -> Result<Responder, ErrorKind> {
        if let Some(pinned) = self.known_key(route, name) {
            return Ok(Responder {
                pinned,
                is_new: false,
                protocol: PeerProtocol::default(),
            });
        }
        self.learn_key(route, name, deadline).await
    }

    /// Notes what is known of who answered, now that it has proven that it holds its key.
    pub(super) fn settle(&self, route: &Route, responder: Responder, by_v2: bool) -> Result<(), ErrorKind> {
        let registry = &self.shared.registry;
        let name = responder.pinned.name.clone();
        if responder.is_new || route.expected.name.is_none() || route.expected.key.is_none() {
            self.pin(route, responder.pinned)?;
        }
        let proven = if by_v2 {
            PeerProtocol::V2
        } else {
            PeerProtocol::default()
        };
        registry.learn_protocol_of(&name, responder.protocol.union(proven));
        Ok(())
    }

    /// The answer of a signed endpoint with another status than 200, as an error.
    pub(super) fn refused(&self, route: &Route, reply: Reply) -> ErrorKind {
        let only_v2 = reply.sent.v2.is_some() && reply.sent.v1.is_none();
        if only_v2 && reply.status == StatusCode::UNAUTHORIZED && reply.body.starts_with(LOOKS_FOR_V1) {
            let introduced = || route.introduction.as_ref().map(|introduction| &introduction.name);
            let name = route.expected.name.as_ref().or_else(introduced);
            let registry = &self.shared.registry;
            let known = name.and_then(|name| registry.by_name(name.as_str()));
            registry.report_downgrade(known.as_ref().unwrap_or(&route.peer), "response", "v2 signature");
            return ErrorKind::Downgrade;
        }
        let verified = self.is_signed_by_known_key(route, &reply);
        self.status_error(route, reply, verified)
    }

    /// Whether an error answer carries a valid signature of the peer. No key is learned for it.
    pub(super) fn is_signed_by_known_key(&self, route: &Route, reply: &Reply) -> bool {
        let now = self.shared.clock.now_millis();
        self.with_known_key(route, reply)
            .is_some_and(|(proof, pinned)| proof.verify(&self.shared.keys, &pinned, &reply.body, now).is_ok())
    }

    fn with_known_key(&self, route: &Route, reply: &Reply) -> Option<(AnswerProof, PinnedKey)> {
        let proof = AnswerProof::read(reply).ok()?;
        check_responder(route, proof.name()).ok()?;
        let pinned = self.known_key(route, proof.name())?;
        Some((proof, pinned))
    }

    /// The pinned key of the peer that was called, else of the name that answered.
    pub(super) fn known_key(&self, route: &Route, responder: &NaraName) -> Option<PinnedKey> {
        let of_peer = route.peer.info().key.filter(|pinned| pinned.name == *responder);
        of_peer.or_else(|| self.shared.registry.by_name(responder.as_str())?.info().key)
    }

    /// Refuses a nara that the operator does not trust.
    pub(super) fn check_trusted(&self, name: &NaraName) -> Result<(), ErrorKind> {
        let peer = self.shared.registry.by_name(name.as_str());
        if peer.is_some_and(|peer| peer.is_untrusted()) {
            return Err(ErrorKind::Untrusted(name.clone()));
        }
        Ok(())
    }

    /// A signature that does not verify may mean that the nara has a new key. Asking it does not change what is
    /// pinned, but then the error can name both keys, and whoever watches the registry is told.
    pub(super) async fn look_for_conflict(
        &self,
        route: &Route,
        responder: &NaraName,
        deadline: Instant,
    ) -> Result<(), ErrorKind> {
        let asking = self.discover_key_until(route.address, Some(responder), deadline);
        let Ok(discovered) = asking.await else {
            return Ok(());
        };
        let offered = PinnedKey {
            name: discovered.name,
            id: None,
            key: discovered.key,
            source: KeySource::Ping(route.address),
            learned_at: self.shared.clock.now_millis(),
        };
        self.report_key(&offered)
    }

    /// What a connection to the holder of another key means for the pinned one: a conflict, of which whoever watches
    /// the registry is told.
    pub(super) fn as_conflict(&self, route: &Route, kind: ErrorKind) -> ErrorKind {
        let (ErrorKind::Tls(TlsFailure::OtherKey(mismatch)), Some(pinned)) = (&kind, &route.expected.key)
        else {
            return kind;
        };
        let offered = PinnedKey {
            key: mismatch.got,
            source: KeySource::Tls(route.address),
            learned_at: self.shared.clock.now_millis(),
            ..pinned.clone()
        };
        self.report_key(&offered).err().unwrap_or(kind)
    }

    /// Asks for the key of a responder that is met for the first time. It is asked where the call went, since
    /// that is where trust on first use points to.
    async fn learn_key(
        &self,
        route: &Route,
        responder: &NaraName,
        deadline: Instant,
    ) -> Result<Responder, ErrorKind> {
        let unknown = |discovery| ErrorKind::UnknownKey {
            responder: responder.clone(),
            discovery,
        };
        if !self.shared.registry.trust().asks_strangers() {
            return Err(unknown(None));
        }
        let introduction = route.introduction.clone();
        let discovered = match introduction.filter(|introduction| introduction.name == *responder) {
            Some(introduction) => introduction,
            None => self
                .discover_key_until(route.address, Some(responder), deadline)
                .await
                .map_err(|error| unknown(Some(error)))?,
        };
        let protocol = discovered.capability.as_ref().map(PeerProtocol::from);
        Ok(Responder {
            pinned: PinnedKey {
                name: discovered.name,
                id: route.expected.id.clone(),
                key: discovered.key,
                source: KeySource::Ping(route.address),
                learned_at: self.shared.clock.now_millis(),
            },
            is_new: true,
            protocol: protocol.unwrap_or_default(),
        })
    }

    /// Notes in the registry who answered: id, name and key belong together from now on.
    pub(super) fn pin(&self, route: &Route, pinned: PinnedKey) -> Result<(), ErrorKind> {
        self.check_own_name(&pinned)?;
        // An address is noted for a nara that has none. To replace the one it has takes more than an answer
        // from elsewhere, which anybody can pass on.
        let registry = &self.shared.registry;
        let is_stranger = route.expected.id.is_none() && route.expected.name.is_none();
        let known = registry.by_name(pinned.name.as_str());
        let has_address = known.is_some_and(|peer| peer.info().address.is_some());
        let info = PeerInfo {
            id: route.expected.id.clone(),
            name: Some(pinned.name.clone()),
            address: route.expected.address.filter(|_| is_stranger && !has_address),
            key: Some(pinned),
            ..PeerInfo::default()
        };
        registry.register(info).map(drop).map_err(ErrorKind::Identity)
    }

    /// Compares a key with what is known. Nothing is pinned.
    pub(super) fn report_key(&self, offered: &PinnedKey) -> Result<(), ErrorKind> {
        self.check_own_name(offered)?;
        let reported = self.shared.registry.report_key(offered);
        reported.map_err(|conflict| ErrorKind::Identity(conflict.into()))
    }

    /// Our own name belongs to our own key.
    fn check_own_name(&self, pinned: &PinnedKey) -> Result<(), ErrorKind> {
        let local = &self.shared.local;
        if pinned.name != *local.name() || pinned.key == local.public_key() {
            return Ok(());
        }
        let own = PinnedKey {
            name: local.name().clone(),
            id: Some(local.id().clone()),
            key: local.public_key(),
            source: KeySource::Own,
            learned_at: UnixMillis::default(),
        };
        let conflict = KeyConflict {
            name: pinned.name.clone(),
            pinned: Box::new(own),
            offered: pinned.key,
            offered_by: pinned.source.clone(),
        };
        Err(ErrorKind::Identity(conflict.into()))
    }
}

/// Another nara than the one that was called must not answer for it.
pub(super) fn check_responder(route: &Route, responder: &NaraName) -> Result<(), ErrorKind> {
    match &route.expected.name {
        Some(expected) if expected != responder => {
            Err(ErrorKind::Unauthenticated(ResponseAuthError::WrongResponder {
                expected: expected.clone(),
                got: responder.clone(),
            }))
        }
        _ => Ok(()),
    }
}

/// Whoever passes on the answers of another nara over a secure connection of its own must not be taken for it.
pub(super) fn check_channel(channel: Option<&SecureChannel>, key: &PublicKey) -> Result<(), ErrorKind> {
    match channel {
        Some(channel) if channel.peer_key != *key => Err(ErrorKind::Tls(TlsFailure::OtherKey(KeyMismatch {
            pinned: *key,
            got: channel.peer_key,
        }))),
        _ => Ok(()),
    }
}

/// Runs `work` here if it is small, else on a thread where it delays nobody.
pub(crate) async fn offload<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> T {
    if !large {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down, and this task with it.
        Err(_) => std::future::pending().await,
    }
}
