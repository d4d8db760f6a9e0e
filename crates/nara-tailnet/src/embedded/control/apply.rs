//! Applies the map to the other parts of the node.

use std::sync::Arc;

use tokio::sync::watch;
use ts_keys::NodeKeyPair;

use crate::embedded::direct::{Direct, DirectPeer, StunServer};
use crate::embedded::driver::Driver;
use crate::embedded::netmap::{Netmap, View};
use crate::embedded::plane::PeerRoute;
use crate::embedded::relay::Relays;
use crate::embedded::stack::Stack;
use crate::embedded::tap::Tap;
use crate::embedded::underlay::RegionId;

/// The parts of the node that depend on the map.
pub(in crate::embedded) struct Parts {
    pub(in crate::embedded) driver: Arc<Driver>,
    pub(in crate::embedded) tap: Arc<Tap>,
    pub(in crate::embedded) relays: Arc<Relays>,
    pub(in crate::embedded) stack: Arc<Stack>,
    pub(in crate::embedded) direct: Direct,
    pub(in crate::embedded) view: watch::Sender<View>,
}

impl Parts {
    /// Replaces the key of the node.
    pub(super) fn set_keys(&self, keys: NodeKeyPair) {
        self.driver.set_keys(&keys);
        self.direct.set_node(keys.public);
        self.relays.set_keys(keys);
    }

    /// Applies the map to all parts.
    pub(super) async fn apply(&self, netmap: &Netmap, home: Option<RegionId>) {
        if let Some(relays) = &netmap.relays {
            self.relays.set_map(relays.clone());
        }
        let peers = netmap.peers();
        self.relays
            .use_regions(peers.iter().filter_map(|peer| peer.region));
        let routes: Vec<_> = peers
            .iter()
            .filter(|peer| !netmap.has_expired(peer))
            .map(|peer| PeerRoute {
                key: peer.key,
                addresses: peer.addresses.clone(),
                region: peer.region,
            })
            .collect();
        self.direct.set_servers(stun_servers(netmap, home));
        self.direct.set_peers(
            peers
                .iter()
                .filter(|peer| !netmap.has_expired(peer))
                .filter_map(|peer| {
                    Some(DirectPeer {
                        key: peer.key,
                        disco: peer.disco?,
                        endpoints: peer.endpoints.clone(),
                    })
                })
                .collect(),
        );
        let own = netmap.own.clone();
        let ours = own.as_ref().map(|own| own.addresses.clone()).unwrap_or_default();
        // The filter comes first, so that new routes never admit traffic that it forbids.
        self.tap.set_filter(Arc::new(netmap.filter.clone()));
        self.driver.set_routes(&ours, &routes, home);
        self.stack.set_addresses(&ours).await;
        self.view.send_if_modified(|view| {
            let differs = view.own != own || view.peers != peers;
            if differs {
                *view = View { own, peers };
            }
            differs
        });
    }
}

/// Returns the STUN servers of our home region.
fn stun_servers(netmap: &Netmap, home: Option<RegionId>) -> Vec<StunServer> {
    let region = home.and_then(|home| netmap.relays.as_ref()?.0.get(&home));
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
