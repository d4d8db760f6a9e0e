//! The shares of peers in the space of a registry.

use std::sync::Arc;

use nara_proto::identity::NaraName;

use super::{RegisterError, Table};
use crate::registry::{Peer, PeerEvent, PeerInfo, PeerRegistry};

impl Table {
    /// Makes room for a new peer, and returns the peer that was removed for it.
    ///
    /// Introduced peers that were never seen get an eighth of the registry, and those of one teller 1/128; a new one
    /// replaces the oldest. Peers that were met get half of it, and introduced ones among them a part of that: see
    /// [`PeerRegistry::seen`]. Configured peers replace peers that were only introduced.
    pub(super) fn make_room(
        &mut self,
        info: &PeerInfo,
        max_peers: usize,
    ) -> Result<Option<Arc<Peer>>, RegisterError> {
        let ghosts = max_peers.div_ceil(8);
        let of_teller = of_one_teller(max_peers.div_ceil(128), ghosts);
        let ghost = match Class::of(info) {
            Class::Ghost(teller) if self.ghosts.count(teller.as_ref()) >= of_teller => {
                self.ghosts.oldest(teller.as_ref())
            }
            Class::Ghost(_) if self.ghosts.len() >= ghosts => self.ghosts.oldest_of_most(),
            Class::Met | Class::Seen(_) if self.met.len() >= max_peers.div_ceil(2) => {
                return Err(RegisterError::Full(max_peers.div_ceil(2)));
            }
            _ if self.len >= max_peers => {
                let oldest = self.ghosts.oldest_of_most();
                Some(oldest.ok_or(RegisterError::Full(max_peers))?)
            }
            _ => None,
        };
        let ghost = ghost.and_then(|name| self.by_name.get(&name).cloned());
        Ok(ghost.filter(|ghost| self.unlink(ghost)))
    }

    /// Returns whether one more nara of this teller may be seen.
    fn may_add_seen_of(&self, teller: Option<&NaraName>, max_peers: usize) -> bool {
        let all = max_peers.div_ceil(4);
        self.seen.len() < all && self.seen.count(teller) < of_one_teller(max_peers.div_ceil(64), all)
    }

    /// Records the class of a peer.
    pub(super) fn classify(&mut self, peer: &Arc<Peer>) {
        let info = peer.info();
        let class = Class::of(&info);
        let Some(name) = info.name else { return };
        self.ghosts.remove(&name);
        self.seen.remove(&name);
        self.met.remove(&name);
        match class {
            Class::Other => {}
            Class::Met => {
                self.met.insert(name);
            }
            Class::Seen(teller) => {
                self.met.insert(name.clone());
                self.seen.add(name, teller);
            }
            Class::Ghost(teller) => self.ghosts.add(name, teller),
        }
    }
}

impl PeerRegistry {
    /// Records that a peer has proven that it holds its key.
    ///
    /// At most a quarter of the registry may be introduced peers that were seen, and 1/64 introduced peers of one
    /// teller. A teller that invents naras also holds their keys, so without these limits it could take all the space.
    /// Peers beyond them stay ghosts.
    pub(in crate::registry) fn seen(&self, peer: &Peer) {
        if peer.with_info(|info| info.seen || info.key.is_none()) {
            return;
        }
        let info = peer.info();
        let introducer = info.key.as_ref().and_then(|key| {
            key.source
                .introducer()
                .filter(|teller| *teller != Some(&key.name))
        });
        // Under one lock: a peer that is removed meanwhile must not be counted.
        let mut table = self.write();
        if introducer.is_some_and(|teller| !table.may_add_seen_of(teller, self.max_peers)) {
            return;
        }
        peer.update(|info| info.seen = true);
        let seen = info
            .name
            .as_ref()
            .and_then(|name| table.by_name.get(name).cloned());
        if let (Some(_), Some(seen)) = (introducer, seen) {
            table.classify(&seen);
            drop(table);
            self.emit(PeerEvent::Seen(peer.info()));
        }
    }
}

/// The number of naras that one teller may introduce to a small registry, or half of the places for all tellers if that
/// is less.
const MIN_PLACES_PER_TELLER: usize = 16;

/// Returns the places of one teller out of those of all tellers.
fn of_one_teller(share: usize, all: usize) -> usize {
    share.max(MIN_PLACES_PER_TELLER.min(all / 2))
}

/// The class of a peer when space is short.
#[derive(Debug, PartialEq, Eq)]
enum Class {
    /// Configured, decided about, or without a key.
    Other,
    /// Met at its own address.
    Met,
    /// Introduced by another nara, and seen later.
    Seen(Option<NaraName>),
    /// Introduced by another nara, and never seen.
    Ghost(Option<NaraName>),
}

impl Class {
    fn of(info: &PeerInfo) -> Self {
        let Some(key) = info.key.as_ref().filter(|key| key.source.is_hearsay()) else {
            return Self::Other;
        };
        if info.decision.is_some() || info.configured {
            return Self::Other;
        }
        match key.source.introducer() {
            Some(teller) if teller == Some(&key.name) => Self::Met,
            Some(teller) if info.seen => Self::Seen(teller.cloned()),
            Some(teller) => Self::Ghost(teller.cloned()),
            None => Self::Met,
        }
    }
}
