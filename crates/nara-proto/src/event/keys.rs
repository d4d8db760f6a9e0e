//! Key lookup for the verification of events.

use std::collections::BTreeMap;

use crate::identity::PublicKey;

/// What is known about the key of a nara.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStanding {
    /// This key is pinned.
    Pinned(PublicKey),
    /// No key is known.
    Unknown,
    /// The operator distrusts the nara: no event in its name is accepted, signed or not.
    Untrusted,
}

impl KeyStanding {
    /// Returns the pinned key.
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

/// The source of public keys for the verifier. It looks up keys of events by the *name* of the emitter, and keys of
/// checkpoints by the nara *id* of each voter (docs/protocol/v1.md, sections 8.6 and 11.4).
pub trait KeyLookup {
    /// Returns the standing of the nara with this name.
    fn standing_of_name(&self, name: &str) -> KeyStanding;

    /// Returns the standing of the nara with this id.
    fn standing_of_id(&self, id: &str) -> KeyStanding;

    /// Returns whether the nara with this id has this name; `None` if neither is known.
    fn is_id_of_name(&self, id: &str, name: &str) -> Option<bool>;

    /// Returns whether the key is or was the key of the name according to the followed statements of succession. True
    /// also if no key is valid any more, but false if the operator distrusts the nara.
    fn was_key_of_name(&self, _name: &str, _key: &PublicKey) -> bool {
        false
    }

    /// Returns whether the operator banned this key, under any name.
    fn is_banned_key(&self, _key: &PublicKey) -> bool {
        false
    }

    /// Returns the key that is pinned for a name.
    fn key_of_name(&self, name: &str) -> Option<PublicKey> {
        self.standing_of_name(name).key()
    }

    /// Returns the key that is pinned for a nara id.
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

            fn is_banned_key(&self, key: &PublicKey) -> bool {
                (**self).is_banned_key(key)
            }
        }
    };
}

forward!(&T);
forward!(std::sync::Arc<T>);

/// Keys by name; lookups by id find nothing.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{
        ChauPayload, EventProblem, EventReception, HeyTherePayload, Payload, SyncEvent, verify_events,
    };
    use crate::identity::{KeyPair, Soul};
    use crate::time::UnixNanos;

    /// No nara is known, and one key is banned.
    struct Banned(PublicKey);

    impl KeyLookup for Banned {
        fn standing_of_name(&self, _: &str) -> KeyStanding {
            KeyStanding::Unknown
        }

        fn standing_of_id(&self, _: &str) -> KeyStanding {
            KeyStanding::Unknown
        }

        fn is_id_of_name(&self, _: &str, _: &str) -> Option<bool> {
            None
        }

        fn is_banned_key(&self, key: &PublicKey) -> bool {
            *key == self.0
        }
    }

    #[test]
    fn a_banned_key_introduces_itself_under_no_other_name() {
        let now = UnixNanos::new(1_769_100_000_000_000_000);
        let key = KeyPair::from_soul(&Soul::bond([7; 32], "mallory"));
        let (from, public_key) = ("newname".to_owned(), key.public_key().to_base64());
        let hey_there = Payload::HeyThere(HeyTherePayload {
            from: from.clone(),
            public_key: public_key.clone(),
            ..HeyTherePayload::default()
        });
        let chau = Payload::Chau(ChauPayload {
            from,
            public_key,
            ..ChauPayload::default()
        });
        let mut events = [hey_there, chau].map(|payload| SyncEvent::signed(now, payload, "newname", &key));
        let reception = EventReception { now, random: [3; 32] };
        let verdicts = verify_events(&mut events, &Banned(key.public_key()), reception);
        assert_eq!(verdicts, [Err(EventProblem::Untrusted); 2]);
    }
}
