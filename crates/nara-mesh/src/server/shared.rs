use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use nara_proto::event::KeyLookup;
use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::peer::Coordinates;
use tokio::sync::Semaphore;

use super::ServerLimits;
use super::background::Background;
use super::stash::Stash;
use crate::client::MeshClient;
use crate::clock::Clock;
use crate::handler::MeshHandler;
use crate::identity::LocalNara;
use crate::ledger::Ledger;
use crate::registry::PeerRegistry;
use nara_proto::breaker::BreakerState;

/// What all handlers of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) local: LocalNara,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) registry: PeerRegistry,
    pub(super) client: Option<MeshClient>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) handler: Arc<dyn MeshHandler>,
    pub(super) limits: ServerLimits,
    pub(super) mesh_ip: String,
    pub(super) coordinates: Option<Coordinates>,
    pub(super) mesh_ranges: Vec<IpNet>,
    pub(super) mesh_port: u16,
    pub(super) stash: Stash,
    pub(super) background: Background,
    pub(super) replies: Arc<Semaphore>,
}

impl Shared {
    /// The names of the naras that are believed to be online, without our own, each once.
    pub(super) fn online_names(&self) -> Vec<NaraName> {
        let names = self.handler.online_names().unwrap_or_else(|| {
            let peers = self.registry.peers();
            let reachable = peers
                .iter()
                .filter(|peer| matches!(peer.breaker_state(), BreakerState::Closed));
            reachable
                .map(|peer| peer.info())
                .filter(|info| info.address.is_some())
                .filter_map(|info| info.name)
                .collect()
        });
        let mut seen = BTreeSet::new();
        names
            .into_iter()
            .filter(|name| name != self.local.name() && seen.insert(name.clone()))
            .collect()
    }
}

/// Our own key, then those of the registry.
impl KeyLookup for Shared {
    fn key_of_name(&self, name: &str) -> Option<PublicKey> {
        if name == self.local.name().as_str() {
            return Some(self.local.public_key());
        }
        self.registry.key_of_name(name)
    }

    fn key_of_id(&self, id: &str) -> Option<PublicKey> {
        if id == self.local.id().as_str() {
            return Some(self.local.public_key());
        }
        self.registry.key_of_id(id)
    }
}
