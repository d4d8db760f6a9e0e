//! What follows from the map for the rest of the node.

use std::sync::Arc;

use super::{Control, View};
use crate::embedded::direct::{DirectPeer, StunServer};
use crate::embedded::plane::PeerRoute;
use crate::embedded::relay::region::RegionId;

impl Control {
    /// Makes everything else what the map says.
    pub(super) async fn apply(&self, home: Option<RegionId>) {
        if let Some(relays) = &self.netmap.relays {
            self.relays.set_map(relays.clone());
        }
        let peers = self.netmap.peers();
        self.relays
            .use_regions(peers.iter().filter_map(|peer| peer.region));
        let routes: Vec<_> = peers
            .iter()
            .filter(|peer| !peer.expired)
            .map(|peer| PeerRoute {
                key: peer.key,
                addresses: peer.addresses.clone(),
                region: peer.region,
            })
            .collect();
        self.direct.set_servers(self.stun_servers(home));
        self.direct.set_peers(
            peers
                .iter()
                .filter(|peer| !peer.expired)
                .filter_map(|peer| {
                    Some(DirectPeer {
                        key: peer.key,
                        disco: peer.disco?,
                        endpoints: peer.endpoints.clone(),
                    })
                })
                .collect(),
        );
        let own = self.netmap.own.clone();
        let ours = own.as_ref().map(|own| own.addresses.clone()).unwrap_or_default();
        self.plane
            .set_routes(&ours, &routes, home, Arc::new(self.netmap.filter.clone()));
        self.stack.set_addresses(&ours).await;
        self.view.send_if_modified(|view| {
            let differs = view.own != own || view.peers != peers;
            if differs {
                *view = View { own, peers };
            }
            differs
        });
    }

    /// The STUN servers of our home.
    fn stun_servers(&self, home: Option<RegionId>) -> Vec<StunServer> {
        let region = home.and_then(|home| self.netmap.relays.as_ref()?.0.get(&home));
        let servers = region.into_iter().flat_map(|region| &region.servers);
        servers
            .filter_map(|server| {
                Some(StunServer {
                    host_name: server.host_name.clone(),
                    port: server.stun_port?,
                    addresses: server.addresses.clone(),
                })
            })
            .collect()
    }
}
