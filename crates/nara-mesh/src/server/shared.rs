use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use nara_proto::breaker::BreakerState;
use nara_proto::event::{KeyLookup, KeyStanding};
use nara_proto::identity::{NaraName, PreparedKeys};
use nara_proto::peer::Coordinates;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::ServerLimits;
use super::announcement::Announcement;
use super::background::Background;
use super::body_budget::BodyBudget;
use super::handler::MeshHandler;
use super::places::Places;
use super::rates::Rates;
use super::stash::Stash;
use super::streams::Streams;
use crate::client::MeshClient;
use crate::clock::Clock;
use crate::identity::LocalNara;
use crate::ledger::Ledger;
use crate::rate_limit::RateLimit;
use crate::registry::{KnownKeys, Peer, PeerRegistry};

/// What all handlers of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) local: LocalNara,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) registry: PeerRegistry,
    /// Those of the authenticator: whoever signs a request signs its body with the same key.
    pub(super) prepared_keys: Arc<PreparedKeys>,
    pub(super) known_keys: KnownKeys,
    pub(super) client: Option<MeshClient>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) handler: Arc<dyn MeshHandler>,
    pub(super) limits: ServerLimits,
    pub(super) body_budget: Arc<BodyBudget>,
    pub(super) announcement: Announcement,
    /// What `/ping` tells; it changes when the node of this nara gets another address.
    pub(super) mesh_ip: watch::Sender<String>,
    pub(super) coordinates: Option<Coordinates>,
    pub(super) mesh_ranges: Vec<IpNet>,
    pub(super) mesh_port: u16,
    pub(super) stash: Stash,
    pub(super) streams: Streams,
    pub(super) background: Background,
    pub(super) reachable: Reachable,
    pub(super) replies: Arc<Semaphore>,
    pub(super) reconciliations: Semaphore,
    pub(super) checkpoints: Places<IpAddr>,
    pub(super) checkpoint_rates: Option<(RateLimit, Rates<IpAddr>)>,
    pub(super) imports: Places<IpAddr>,
}

impl Shared {
    /// The names of the naras that are believed to be online, without our own, each once.
    pub(super) fn online_names(&self) -> Arc<[NaraName]> {
        match self.handler.online_names() {
            Some(names) => {
                let mut seen = BTreeSet::new();
                names
                    .into_iter()
                    .filter(|name| name != self.local.name() && seen.insert(name.clone()))
                    .collect()
            }
            None => self.reachable.names(&self.registry, self.local.name()),
        }
    }
}

/// The names of those peers that have an address and are not known to be down. They are looked up at most once
/// a second, and shared: it takes a walk through the whole registry, and anybody may ask for it with
/// `/peer/query`.
#[derive(Debug, Default)]
pub(super) struct Reachable(Mutex<Option<(Instant, Arc<[NaraName]>)>>);

impl Reachable {
    const MAX_AGE: Duration = Duration::from_secs(1);

    fn names(&self, registry: &PeerRegistry, own: &NaraName) -> Arc<[NaraName]> {
        // A plain value: valid whatever happened.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((at, names)) if at.elapsed() < Self::MAX_AGE => names.clone(),
            _ => {
                let names = Self::look_up(registry, own);
                *known = Some((Instant::now(), names.clone()));
                names
            }
        }
    }

    fn look_up(registry: &PeerRegistry, own: &NaraName) -> Arc<[NaraName]> {
        let peers = registry.peers();
        let closed = |peer: &&Arc<Peer>| peer.breaker_state() == BreakerState::Closed;
        peers
            .iter()
            .filter(closed)
            .map(|peer| peer.info())
            .filter(|info| info.address.is_some() && !info.is_untrusted())
            .filter_map(|info| info.name)
            .filter(|name| name != own)
            .collect()
    }
}

impl KeyLookup for Shared {
    fn standing_of_name(&self, name: &str) -> KeyStanding {
        self.known_keys.standing_of_name(name)
    }

    fn standing_of_id(&self, id: &str) -> KeyStanding {
        self.known_keys.standing_of_id(id)
    }

    fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool> {
        self.known_keys.is_id_of_name(id, name)
    }
}
