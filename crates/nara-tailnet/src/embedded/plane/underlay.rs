//! What direct paths need of the data plane.

use std::collections::HashSet;
use std::net::SocketAddr;

use ts_keys::NodePublicKey;
use ts_packet::PacketMut;
use ts_transport::PeerId;

use super::Plane;
use crate::embedded::direct::Underlay;

/// Addresses of which it is remembered whose they are.
const MAX_KNOWN: usize = 4096;

impl Underlay for Plane {
    fn active(&self) -> HashSet<NodePublicKey> {
        let core = self.core();
        let active = core.dataplane.active_peers.keys();
        active.filter_map(|id| core.keys.get(id).copied()).collect()
    }

    fn relay(&self, to: NodePublicKey, packet: Vec<u8>) {
        let core = self.core();
        let region = core.ids.get(&to).and_then(|id| core.regions.get(&PeerId(*id)));
        if let Some(link) = region.and_then(|region| core.links.get(&(*region).into())) {
            // Without room it is lost, as on any network.
            drop(link.try_send((to, vec![packet.into()])));
        }
    }

    fn set_path(&self, peer: NodePublicKey, path: Option<SocketAddr>) {
        let core = &mut *self.core();
        match path {
            Some(path) => core.paths.insert(peer, path),
            None => core.paths.remove(&peer),
        };
        let Some(id) = core.ids.get(&peer).map(|id| PeerId(*id)) else {
            core.paths.remove(&peer);
            return;
        };
        tracing::debug!(%peer, ?path, "packets use a new path");
        match core.way_to(id, &peer) {
            Some(way) => core.dataplane.ur_out.table.insert(id, way),
            None => core.dataplane.ur_out.table.remove(&id),
        };
    }

    fn set_known(&self, address: SocketAddr, peer: NodePublicKey) {
        let mut core = self.core();
        if core.known.len() >= MAX_KNOWN {
            // The peers that are there will soon ping again.
            core.known.clear();
        }
        core.known.insert(address, peer);
    }

    fn inbound(&self, packets: Vec<(SocketAddr, PacketMut)>) {
        let packets = {
            let core = self.core();
            let from = |address: &SocketAddr| core.known.get(address).copied();
            packets
                .into_iter()
                .map(|(address, packet)| (from(&address), packet))
                .collect()
        };
        self.receive(packets);
    }
}
