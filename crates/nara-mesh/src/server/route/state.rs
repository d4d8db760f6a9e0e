use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use nara_proto::breaker::BreakerState;
use nara_proto::event::{KeyLookup, KeyStanding};
use nara_proto::identity::{NaraName, PublicKey};
use nara_proto::peer::Coordinates;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::announcement::Announcement;
use crate::client::MeshClient;
use crate::clock::Clock;
use crate::identity::LocalNara;
use crate::ledger::Ledger;
use crate::registry::{KeyLease, KnownKeys, Peer, PeerRegistry};
use crate::server::auth::sender::VerifiedSender;
use crate::server::background::Background;
use crate::server::handler::MeshHandler;
use crate::server::limits::answer_bytes::AnswerBytes;
use crate::server::limits::body_bytes::{BodyBytes, Source};
use crate::server::limits::quota::Quota;
use crate::server::limits::settings::ServerLimits;
use crate::server::limits::turns::Turns;
use crate::server::route::samples::Samples;
use crate::server::route::stash::Stash;

/// The shared state of all handlers of a server.
#[derive(Debug)]
pub(in crate::server) struct Shared {
    pub(in crate::server) local: LocalNara,
    pub(in crate::server) ledger: Arc<dyn Ledger>,
    pub(in crate::server) registry: PeerRegistry,
    /// The keys of the authenticator: request and body are signed with the same key.
    pub(in crate::server) known_keys: KnownKeys,
    pub(in crate::server) client: Option<MeshClient>,
    pub(in crate::server) clock: Arc<dyn Clock>,
    pub(in crate::server) handler: Arc<dyn MeshHandler>,
    pub(in crate::server) limits: ServerLimits,
    pub(in crate::server) body_bytes: Arc<BodyBytes>,
    pub(in crate::server) announcement: Arc<Announcement>,
    /// The address in `/ping` answers; it changes when the node of this nara gets another one.
    pub(in crate::server) mesh_ip: watch::Sender<String>,
    pub(in crate::server) coordinates: Option<Coordinates>,
    pub(in crate::server) mesh_ranges: Vec<IpNet>,
    pub(in crate::server) mesh_port: u16,
    pub(in crate::server) stash: Arc<Stash>,
    pub(in crate::server) streams: Quota<NaraName>,
    pub(in crate::server) background: Background,
    pub(in crate::server) reachable: Reachable,
    pub(in crate::server) replies: Arc<Semaphore>,
    /// Costly reads of the ledger, in turns.
    pub(in crate::server) reads: Turns<Source>,
    /// The verification of many signatures, in turns per sender.
    pub(in crate::server) checks: Turns<Option<NaraName>>,
    pub(in crate::server) answer_bytes: AnswerBytes,
    pub(in crate::server) samples: Samples,
    pub(in crate::server) checkpoints: Quota<IpAddr>,
    pub(in crate::server) imports: Quota<IpAddr>,
}

impl Shared {
    /// Returns the lease on the sender's key, for streams; `None` for this nara itself, whose key is never removed.
    pub(in crate::server) fn lease(&self, sender: &VerifiedSender) -> Option<KeyLease> {
        (sender.name() != self.local.name()).then(|| self.registry.lease(sender.name(), sender.key()))
    }

    /// Returns the names of the naras that are probably online, without our own, without duplicates.
    pub(in crate::server) fn online_names(&self) -> Arc<[NaraName]> {
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

/// The names of the peers that have an address and are not known to be down. They are computed at most once a second,
/// and shared: it takes a scan of the whole registry, and any stranger may cause it with `/peer/query`.
#[derive(Debug, Default)]
pub(in crate::server) struct Reachable(Mutex<Option<(Instant, Arc<[NaraName]>)>>);

impl Reachable {
    const MAX_AGE: Duration = Duration::from_secs(1);

    fn names(&self, registry: &PeerRegistry, own: &NaraName) -> Arc<[NaraName]> {
        // A plain value is valid even if a thread panicked.
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

    fn was_key_of_name(&self, name: &str, key: &PublicKey) -> bool {
        self.known_keys.was_key_of_name(name, key)
    }

    fn is_banned_key(&self, key: &PublicKey) -> bool {
        self.known_keys.is_banned_key(key)
    }

    fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool> {
        self.known_keys.is_id_of_name(id, name)
    }
}
