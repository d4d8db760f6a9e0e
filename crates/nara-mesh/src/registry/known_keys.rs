use nara_proto::event::KeyLookup;
use nara_proto::identity::PublicKey;

use super::PeerRegistry;
use crate::identity::LocalNara;

/// The pinned keys of a registry, and the own key of this nara.
#[derive(Clone, Debug)]
pub struct KnownKeys {
    local: LocalNara,
    registry: PeerRegistry,
}

impl KnownKeys {
    /// The keys that `local` knows.
    pub fn new(local: LocalNara, registry: PeerRegistry) -> Self {
        Self { local, registry }
    }
}

impl KeyLookup for KnownKeys {
    fn key_of_name(&self, name: &str) -> Option<PublicKey> {
        if name == self.local.name().as_str() {
            Some(self.local.public_key())
        } else {
            self.registry.key_of_name(name)
        }
    }

    fn key_of_id(&self, id: &str) -> Option<PublicKey> {
        if id == self.local.id().as_str() {
            Some(self.local.public_key())
        } else {
            self.registry.key_of_id(id)
        }
    }
}
