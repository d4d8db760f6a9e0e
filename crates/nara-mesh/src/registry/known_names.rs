use nara_proto::identity::NaraName;

use super::{KeySource, PeerInfo, PeerRegistry};
use crate::ledger::{KnownNames, Standing};

/// Knows this nara itself and every nara whose key is pinned, as v1 peers do.
#[derive(Clone, Debug)]
pub struct PinnedNames {
    registry: PeerRegistry,
    own: NaraName,
}

impl PinnedNames {
    /// Knows `own` and the naras whose keys `registry` has.
    pub fn new(registry: PeerRegistry, own: NaraName) -> Self {
        Self { registry, own }
    }
}

impl KnownNames for PinnedNames {
    fn standing(&self, name: &str) -> Standing {
        if name == self.own.as_str() {
            return Standing::Configured;
        }
        let peer = self.registry.by_name(name);
        peer.map_or(Standing::Stranger, |peer| peer.with_info(standing))
    }
}

pub(crate) fn standing(info: &PeerInfo) -> Standing {
    let Some(key) = info.key.as_ref().filter(|_| !info.is_untrusted()) else {
        return Standing::Stranger;
    };
    match &key.source {
        KeySource::Configured | KeySource::Operator | KeySource::Own => Standing::Configured,
        KeySource::Ping(_) | KeySource::Tls(_) | KeySource::Succession => Standing::Met,
        _ if info.seen => Standing::Met,
        KeySource::HeyThere {
            told_by: Some(teller),
        } if *teller == key.name => Standing::Met,
        KeySource::HeyThere { .. } | KeySource::PeerQuery(_) => Standing::Introduced,
    }
}
