use std::sync::Arc;

use nara_proto::identity::NaraName;

use super::{KeySource, PeerInfo, PeerRegistry};
use crate::ledger::{KnownNames, Standing};

/// Knows this nara itself and every nara whose key is pinned, as v1 peers do.
#[derive(Clone, Debug)]
struct PinnedNames {
    registry: PeerRegistry,
    own: NaraName,
}

impl PeerRegistry {
    /// For a ledger of the nara `own`: knows that nara itself and the naras whose keys are pinned here.
    pub fn known_names(&self, own: NaraName) -> Arc<dyn KnownNames> {
        Arc::new(PinnedNames {
            registry: self.clone(),
            own,
        })
    }
}

impl KnownNames for PinnedNames {
    fn standing(&self, name: &str) -> Standing {
        if name == self.own.as_str() {
            return Standing::Own;
        }
        let peer = self.registry.by_name(name);
        peer.map_or(Standing::Stranger, |peer| peer.with_info(standing))
    }
}

pub(crate) fn standing(info: &PeerInfo) -> Standing {
    let Some(key) = info.key.as_ref().filter(|_| !info.is_untrusted()) else {
        return Standing::Stranger;
    };
    // Whoever has succeeded another is known as that one was.
    let source = match &key.source {
        KeySource::Succession(first) => first,
        source => source,
    };
    match source {
        KeySource::Configured | KeySource::Operator | KeySource::Own => Standing::Configured,
        KeySource::Ping(_) | KeySource::Tls(_) | KeySource::Succession(_) => Standing::Met,
        _ if info.seen => Standing::Met,
        KeySource::HeyThere {
            told_by: Some(teller),
        } if *teller == key.name => Standing::Met,
        KeySource::HeyThere { .. } | KeySource::PeerQuery(_) => Standing::Introduced,
    }
}
