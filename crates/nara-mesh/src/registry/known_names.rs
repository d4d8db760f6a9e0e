use nara_proto::event::KeyLookup as _;
use nara_proto::identity::NaraName;

use super::PeerRegistry;
use crate::ledger::KnownNames;

/// Knows this nara itself and every nara whose key is pinned, as v1 peers do.
#[derive(Clone, Debug)]
pub struct PinnedNames {
    registry: PeerRegistry,
    own: NaraName,
}

impl PinnedNames {
    /// Knows `own` and those of whom `registry` has the key.
    pub fn new(registry: PeerRegistry, own: NaraName) -> Self {
        Self { registry, own }
    }
}

impl KnownNames for PinnedNames {
    fn is_known(&self, name: &str) -> bool {
        name == self.own.as_str() || self.registry.key_of_name(name).is_some()
    }
}
