use std::collections::BTreeMap;
use std::sync::Arc;

use nara_proto::gossip::{Ring, RingPosition};

use crate::client::MeshClient;
use crate::registry::Peer;

/// What a peer is called here: its name, or its id while the name is not known. Names are what everybody agrees
/// on, so that the ring is the same for all.
pub(super) type Label = Arc<str>;

/// The peers that can be called, as a ring.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) ring: Ring<Label>,
    peers: BTreeMap<Label, Arc<Peer>>,
}

impl Directory {
    /// Those peers of the registry that have an address and are not untrusted, without this nara itself.
    pub(super) fn new(client: &MeshClient) -> Self {
        let local = client.local();
        let mut peers = BTreeMap::new();
        for peer in client.registry().peers() {
            let info = peer.info();
            if info.address.is_none()
                || info.is_untrusted()
                || info.name.as_ref() == Some(local.name())
                || info.id.as_ref() == Some(local.id())
            {
                continue;
            }
            let name = info.name.as_ref().map(|name| name.as_str());
            if let Some(label) = name.or_else(|| info.id.as_ref().map(|id| id.as_str())) {
                peers.insert(Label::from(label), peer);
            }
        }
        let members = peers.keys().map(|label| (position(label), label.clone()));
        Self {
            ring: Ring::new(members),
            peers,
        }
    }

    pub(super) fn peer(&self, label: &Label) -> Option<Arc<Peer>> {
        self.peers.get(label).cloned()
    }
}

pub(super) fn position(label: &str) -> RingPosition {
    RingPosition::of(label)
}
