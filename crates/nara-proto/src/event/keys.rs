//! Where the verifier of events finds public keys.

use std::collections::BTreeMap;

use crate::identity::PublicKey;

/// What is known here about the key of a nara.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStanding {
    /// This key is pinned for it.
    Pinned(PublicKey),
    /// No key is known.
    Unknown,
    /// The operator decided not to trust it: nothing in its name is accepted, signed or not.
    Untrusted,
}

impl KeyStanding {
    /// The pinned key.
    pub fn key(self) -> Option<PublicKey> {
        match self {
            Self::Pinned(key) => Some(key),
            Self::Unknown | Self::Untrusted => None,
        }
    }
}

/// The standing of a nara whose key may be pinned.
impl From<Option<PublicKey>> for KeyStanding {
    fn from(key: Option<PublicKey>) -> Self {
        key.map_or(Self::Unknown, Self::Pinned)
    }
}

/// Where the verifier finds public keys. Keys of events are looked up by the *name* of the emitter, those of
/// checkpoints by the nara *id* of each voter (docs/protocol/v1.md, sections 8.6 and 11.4).
pub trait KeyLookup {
    /// The standing of the nara with this name.
    fn standing_of_name(&self, name: &str) -> KeyStanding;

    /// The standing of the nara with this id.
    fn standing_of_id(&self, id: &str) -> KeyStanding;

    /// Whether the nara with this id has this name; `None` if neither is known.
    fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool>;

    /// Whether this key was the one of the name, and a statement of succession that was followed replaced it.
    fn was_key_of_name(&self, _name: &str, _key: &PublicKey) -> bool {
        false
    }

    /// The key that is pinned for a name.
    fn key_of_name(&self, name: &str) -> Option<PublicKey> {
        self.standing_of_name(name).key()
    }

    /// The key that is pinned for a nara id.
    fn key_of_id(&self, id: &str) -> Option<PublicKey> {
        self.standing_of_id(id).key()
    }
}

macro_rules! forward {
    ($pointer:ty) => {
        impl<T: KeyLookup + ?Sized> KeyLookup for $pointer {
            fn standing_of_name(&self, name: &str) -> KeyStanding {
                (**self).standing_of_name(name)
            }

            fn standing_of_id(&self, id: &str) -> KeyStanding {
                (**self).standing_of_id(id)
            }

            fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool> {
                (**self).is_id_of_name(id, name)
            }

            fn was_key_of_name(&self, name: &str, key: &PublicKey) -> bool {
                (**self).was_key_of_name(name, key)
            }
        }
    };
}

forward!(&T);
forward!(std::sync::Arc<T>);

/// A table of keys by name; nothing is known by id.
impl KeyLookup for BTreeMap<String, PublicKey> {
    fn standing_of_name(&self, name: &str) -> KeyStanding {
        self.get(name).copied().into()
    }

    fn standing_of_id(&self, _: &str) -> KeyStanding {
        KeyStanding::Unknown
    }

    fn is_id_of_name(&self, _: &str, _: &str) -> Option<bool> {
        None
    }
}
