use std::sync::Arc;

use nara_proto::event::{KeyLookup, KeyStanding, SyncEvent};
use nara_proto::identity::PublicKey;
use nara_proto::time::UnixNanos;

use super::{Peer, PeerRegistry};
use crate::identity::LocalNara;

/// The pinned keys of a registry, and the own key of this nara.
#[derive(Clone, Debug)]
pub(crate) struct KnownKeys {
    local: LocalNara,
    registry: PeerRegistry,
}

impl KnownKeys {
    /// The keys that `local` knows.
    pub(crate) fn new(local: LocalNara, registry: PeerRegistry) -> Self {
        Self { local, registry }
    }

    /// Notes what a **verified** event says about the presence of its emitter; `wall_clock` is now.
    pub(crate) fn hear(&self, event: &SyncEvent, wall_clock: UnixNanos) {
        self.registry.hear(event, wall_clock);
    }
}

impl KeyLookup for KnownKeys {
    fn standing_of_name(&self, name: &str) -> KeyStanding {
        if name == self.local.name().as_str() {
            KeyStanding::Pinned(self.local.public_key())
        } else {
            self.registry.standing_of_name(name)
        }
    }

    fn standing_of_id(&self, id: &str) -> KeyStanding {
        if id == self.local.id().as_str() {
            KeyStanding::Pinned(self.local.public_key())
        } else {
            self.registry.standing_of_id(id)
        }
    }

    fn was_key_of_name(&self, name: &str, key: &PublicKey) -> bool {
        self.registry.was_key_of_name(name, key)
    }

    fn is_banned_key(&self, key: &PublicKey) -> bool {
        self.registry.is_banned_key(key)
    }

    fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool> {
        match (id == self.local.id().as_str(), name == self.local.name().as_str()) {
            (false, false) => self.registry.is_id_of_name(id, name),
            (is_our_id, is_our_name) => Some(is_our_id && is_our_name),
        }
    }
}

impl KeyLookup for PeerRegistry {
    fn standing_of_name(&self, name: &str) -> KeyStanding {
        self.by_name(name)
            .map_or(KeyStanding::Unknown, |peer| peer.standing())
    }

    fn standing_of_id(&self, id: &str) -> KeyStanding {
        let peer = id.parse().ok().and_then(|id| self.by_id(&id));
        peer.map_or(KeyStanding::Unknown, |peer| peer.standing())
    }

    fn was_key_of_name(&self, name: &str, key: &PublicKey) -> bool {
        self.has_followed_from(name, key)
    }

    fn is_banned_key(&self, key: &PublicKey) -> bool {
        self.is_banned(key)
    }

    fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool> {
        let known = |peer: &Arc<Peer>| {
            let info = peer.info();
            let known_id = info.id?;
            let known_name = info.name?;
            Some(known_id.as_str() == id && known_name.as_str() == name)
        };
        let by_id = id.parse().ok().and_then(|id| self.by_id(&id));
        by_id
            .as_ref()
            .and_then(known)
            .or_else(|| self.by_name(name).as_ref().and_then(known))
    }
}
