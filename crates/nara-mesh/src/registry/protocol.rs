//! What peers have proven that they can do.

use nara_proto::identity::NaraName;

use super::{Peer, PeerEvent, PeerProtocol, PeerRegistry};
use crate::seldom::warn_seldom;

impl PeerRegistry {
    /// Notes what the peer with this name has proven, with its pinned key, that it can do.
    pub(crate) fn learn_protocol_of(&self, name: &NaraName, protocol: PeerProtocol) {
        if let Some(peer) = self.by_name(name.as_str()) {
            self.learn_protocol(&peer, protocol);
        }
    }

    /// Tells that a message in the name of a peer does less than the peer has proven that it can.
    pub(crate) fn report_downgrade(&self, peer: &Peer, direction: &'static str, missing: &'static str) {
        metrics::counter!(crate::metrics::DOWNGRADES, "direction" => direction).increment(1);
        warn_seldom!(peer = %peer.info(), direction, missing, "downgrade: refused");
        self.emit(PeerEvent::Downgrade {
            peer: peer.info(),
            missing,
        });
    }
}
