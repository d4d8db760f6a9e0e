//! Records in the registry what an answer proved about its responder.

use nara_proto::identity::NaraName;
use nara_proto::time::UnixMillis;
use tokio::time::Instant;

use super::error::Problem;
use super::resolve::Route;
use super::verifier::{AnswerVerifier, Responder};
use crate::registry::{KeyConflict, KeySource, PeerInfo, PeerProtocol, PinnedKey};

impl AnswerVerifier {
    /// Records what is known of the responder, now that it has proven its key.
    pub(super) fn settle(&self, route: &Route, responder: Responder, by_v2: bool) -> Result<(), Problem> {
        let name = responder.pinned.name.clone();
        if responder.is_new || route.expected.name.is_none() || route.expected.key.is_none() {
            self.pin(route, responder.pinned)?;
        }
        let proven = if by_v2 {
            PeerProtocol::V2
        } else {
            PeerProtocol::default()
        };
        if let Some(peer) = self.registry.named(&name, &route.peer) {
            self.registry
                .learn_protocol(&peer, responder.protocol.union(proven));
        }
        Ok(())
    }

    /// Binds id, name and key of a responder.
    fn pin(&self, route: &Route, pinned: PinnedKey) -> Result<(), Problem> {
        self.check_own_name(&pinned)?;
        // Record an address only for a nara without one. An answer from another address does not replace it,
        // because anyone can relay answers.
        let is_stranger = route.expected.id.is_none() && route.expected.name.is_none();
        let known = self.registry.by_name(pinned.name.as_str());
        let has_address = known.is_some_and(|peer| peer.info().address.is_some());
        let info = PeerInfo {
            id: route.expected.id.clone(),
            name: Some(pinned.name.clone()),
            address: Some(route.address).filter(|_| is_stranger && !has_address),
            key: Some(pinned),
            ..PeerInfo::default()
        };
        self.registry.register(info).map(drop).map_err(Problem::from)
    }

    /// Checks whether an invalid signature is due to a new key of the nara. Asking does not change the pinned
    /// key, but lets the error name both keys, and informs subscribers of the registry.
    pub(super) async fn look_for_conflict(
        &self,
        route: &Route,
        responder: &NaraName,
        deadline: Instant,
    ) -> Result<(), Problem> {
        let asking = self.discover_key(route.address, Some(responder), deadline);
        let Ok(discovered) = asking.await else {
            return Ok(());
        };
        let offered = PinnedKey {
            name: discovered.name,
            id: None,
            key: discovered.key,
            source: KeySource::Ping(route.address),
            learned_at: self.clocks.clock().now_millis(),
        };
        self.report_key(&offered)
    }

    /// Reports a connection to the holder of a key other than the pinned one as a conflict, also to subscribers
    /// of the registry.
    pub(super) fn explain_other_key(&self, route: &Route, problem: Problem) -> Problem {
        let (Problem::OtherKey(mismatch), Some(pinned)) = (&problem, &route.expected.key) else {
            return problem;
        };
        let offered = PinnedKey {
            key: mismatch.got,
            source: KeySource::Tls(route.address),
            learned_at: self.clocks.clock().now_millis(),
            ..pinned.clone()
        };
        self.report_key(&offered).err().unwrap_or(problem)
    }

    /// Compares a key with the known ones. Nothing is pinned.
    pub(super) fn report_key(&self, offered: &PinnedKey) -> Result<(), Problem> {
        self.check_own_name(offered)?;
        let reported = self.registry.report_key(offered);
        reported.map_err(|conflict| Problem::Identity(conflict.into()))
    }

    /// Refuses any key but ours for our own name.
    fn check_own_name(&self, pinned: &PinnedKey) -> Result<(), Problem> {
        let local = &self.local;
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
        Err(Problem::Identity(conflict.into()))
    }
}
