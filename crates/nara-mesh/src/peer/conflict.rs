use std::fmt;

use nara_proto::identity::{KeyId, NaraName, PublicKey};

use super::{KeySource, PinnedKey};

/// Another key than the pinned one was offered for a name. Nothing was changed.
///
/// Either somebody impersonates the nara, or it has a new soul: only its operator knows. `Display` names both keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyConflict {
    /// The name.
    pub name: NaraName,
    /// The pinned key.
    pub pinned: Box<PinnedKey>,
    /// The offered key.
    pub offered: PublicKey,
    /// The source of the offer.
    pub offered_by: KeySource,
}

impl std::error::Error for KeyConflict {}

impl fmt::Display for KeyConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, offered) = (&self.name, KeyId::from(&self.offered));
        let pinned = KeyId::from(&self.pinned.key);
        write!(
            f,
            "{name} is pinned to key {pinned} ({}), but key {offered} was offered ({})",
            self.pinned.source, self.offered_by
        )
    }
}

#[cfg(test)]
mod tests {
    use nara_proto::identity::{KeyPair, Soul};
    use nara_proto::time::UnixMillis;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        KeyPair::from_soul(&Soul::bond([seed; 32], "x")).public_key()
    }

    #[test]
    fn a_conflict_names_both_keys() {
        let name: NaraName = "bob".parse().unwrap();
        let conflict = KeyConflict {
            pinned: Box::new(PinnedKey {
                name: name.clone(),
                id: None,
                key: key(1),
                source: KeySource::Configured,
                learned_at: UnixMillis::new(0),
            }),
            name,
            offered: key(2),
            offered_by: KeySource::Ping(([100, 64, 0, 7], 9632).into()),
        };
        let text = conflict.to_string();
        for key in [key(1), key(2)] {
            assert!(text.contains(&KeyId::from(&key).to_string()), "{text}");
        }
    }
}
