use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use nara_proto::identity::NaraName;

use crate::transport::{Candidate, PeerSource};

/// The nara that answered at each address.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners(Arc<RwLock<HashMap<IpAddr, NaraName>>>);

impl Owners {
    /// Sets the nara of a node; `None` if the host name does not match the nara that answers there, or others may
    /// share the node.
    pub(super) fn confirm(&self, candidate: &Candidate, name: Option<&NaraName>) {
        let mut owners = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for ip in &candidate.addresses {
            match name {
                Some(name) => owners.insert(*ip, name.clone()),
                None => owners.remove(ip),
            };
        }
    }

    pub(super) fn forget(&self, candidate: &Candidate) {
        self.confirm(candidate, None);
    }

    fn of(&self, address: IpAddr) -> Option<NaraName> {
        let owners = self.0.read().unwrap_or_else(PoisonError::into_inner);
        owners.get(&address.to_canonical()).cloned()
    }
}

/// The nodes of a network, with the owners that a [`Discovery`](super::Discovery) confirmed.
#[derive(Clone, Debug)]
pub(super) struct ConfirmedPeers {
    source: Arc<dyn PeerSource>,
    owners: Owners,
}

impl ConfirmedPeers {
    pub(super) fn new(source: Arc<dyn PeerSource>, owners: Owners) -> Self {
        Self { source, owners }
    }
}

impl PeerSource for ConfirmedPeers {
    fn candidates(&self) -> BoxFuture<'_, io::Result<Vec<Candidate>>> {
        self.source.candidates()
    }

    fn watch(&self) -> BoxStream<'static, Vec<Candidate>> {
        self.source.watch()
    }

    fn owner_of(&self, address: IpAddr) -> BoxFuture<'_, Option<NaraName>> {
        Box::pin(std::future::ready(self.owners.of(address)))
    }
}
