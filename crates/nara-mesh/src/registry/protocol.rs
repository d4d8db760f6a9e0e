//! What peers have proven that they can do.

use super::{Peer, PeerEvent, PeerRegistry};
use crate::seldom::warn_seldom;

impl PeerRegistry {
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
