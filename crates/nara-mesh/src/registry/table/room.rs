//! Who may have how much room.

use std::sync::Arc;

use nara_proto::identity::NaraName;

use super::{RegisterError, Table};
use crate::registry::{Peer, PeerEvent, PeerInfo, PeerRegistry};

impl Table {
    /// Makes room for a new peer, and gives the one that had to go for it.
    ///
    /// Introduced peers that nobody has seen have an eighth of the registry, and those of one teller 1/128; their oldest
    /// goes for a new one. Peers that were met have half of it, and those among them that others introduced a part of that:
    /// see [`PeerRegistry::seen`]. Configured peers take the places of peers that were only introduced.
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

    /// Whether one more nara of this teller may be seen.
    fn may_see_one_of(&self, teller: Option<&NaraName>, max_peers: usize) -> bool {
        let all = max_peers.div_ceil(4);
        self.seen.len() < all && self.seen.count(teller) < of_one_teller(max_peers.div_ceil(64), all)
    }

    /// Notes among whom a peer counts.
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
    /// Notes that a peer has proven that it holds its key.
    ///
    /// At most a quarter of the registry may be introduced peers that were seen, and 1/64 introduced peers of one teller. A
    /// teller that makes up naras also holds their keys, so without these limits it could take all the room. Peers beyond
    /// them stay ghosts.
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
        if introducer.is_some_and(|teller| !table.may_see_one_of(teller, self.max_peers)) {
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

/// The naras that one teller may introduce to a small registry, or half of those of all tellers if that is less.
const FEW: usize = 16;

/// The places of one teller among those of all.
fn of_one_teller(share: usize, all: usize) -> usize {
    share.max(FEW.min(all / 2))
}

/// Among whom a peer counts when room is short.
#[derive(Debug, PartialEq, Eq)]
enum Class {
    /// Configured, decided about, or without a key.
    Other,
    /// Met at its own address.
    Met,
    /// Introduced by another nara, and seen then.
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
