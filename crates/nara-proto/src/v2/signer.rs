use std::fmt;
use std::sync::Arc;

use crate::identity::{KeyId, KeyPair, NaraName};

/// A signer of messages: a keypair and a name. Cloning is cheap.
#[derive(Clone)]
pub struct Signer {
    keypair: KeyPair,
    name: NaraName,
    key_id: KeyId,
    /// Cached, because Base58 is slow to encode.
    key_id_text: Arc<str>,
}

impl Signer {
    /// Returns a signer with this name.
    pub fn new(keypair: KeyPair, name: NaraName) -> Self {
        let key_id = KeyId::from(&keypair.public_key());
        Self {
            key_id_text: key_id.to_string().into(),
            key_id,
            keypair,
            name,
        }
    }

    /// Returns the name.
    pub fn name(&self) -> &NaraName {
        &self.name
    }

    /// Returns the keypair.
    pub fn keypair(&self) -> &KeyPair {
        &self.keypair
    }

    pub(super) fn key_id(&self) -> (KeyId, &str) {
        (self.key_id, &self.key_id_text)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("name", &self.name)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}
