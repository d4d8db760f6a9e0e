//! Who may have how much room.

use std::sync::Arc;

use nara_proto::identity::NaraName;

use super::{RegisterError, Table};
use crate::registry::{Peer, PeerInfo};

impl Table {
    /// Makes room for a new peer, and gives the one that had to go for it.
    ///
    /// Those that were only introduced have an eighth of the registry, and one teller 1/128; their oldest goes for a new
    /// one. Those that were met have half of it. What is configured takes the place of those that were only introduced.
    pub(super) fn make_room(
        &mut self,
        info: &PeerInfo,
        max_peers: usize,
    ) -> Result<Option<Arc<Peer>>, RegisterError> {
        let ghost = match Class::of(info) {
            Class::Ghost(teller) if self.ghosts.count(teller.as_ref()) >= max_peers.div_ceil(128) => {
                self.ghosts.oldest(teller.as_ref())
            }
            Class::Ghost(_) if self.ghosts.len() >= max_peers.div_ceil(8) => self.ghosts.oldest_of_most(),
            Class::Met if self.met.len() >= max_peers.div_ceil(2) => {
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

    /// Notes among whom a peer counts.
    pub(super) fn classify(&mut self, peer: &Arc<Peer>) {
        let info = peer.info();
        let class = Class::of(&info);
        let Some(name) = info.name else { return };
        if let Class::Ghost(teller) = class {
            self.met.remove(&name);
            self.ghosts.add(name, teller);
        } else {
            self.ghosts.remove(&name);
            if class == Class::Met {
                self.met.insert(name);
            } else {
                self.met.remove(&name);
            }
        }
    }
}

/// Among whom a peer counts when room is short.
#[derive(Debug, PartialEq, Eq)]
enum Class {
    /// Configured, decided about, or without a key.
    Other,
    /// Met at its own address.
    Met,
    /// Introduced by another nara, and never seen.
    Ghost(Option<NaraName>),
}

impl Class {
    fn of(info: &PeerInfo) -> Self {
        let Some(key) = info.key.as_ref().filter(|key| key.source.is_hearsay()) else {
            return Self::Other;
        };
        if info.decision.is_some() || info.configured_at.is_some() {
            return Self::Other;
        }
        match key.source.introducer() {
            Some(teller) if !info.seen && teller != Some(&key.name) => Self::Ghost(teller.cloned()),
            _ => Self::Met,
        }
    }
}
