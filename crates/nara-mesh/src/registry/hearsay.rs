use nara_proto::succession::KeyState;

use super::peer::with_other_port;
use super::{KeyConflict, KeyOffer, KeyRefused, PeerEvent, PeerInfo, PeerRegistry, PinnedKey, RegisterError};
use crate::metrics;

/// Why no key of a nara is learned that the operator does not trust.
const UNTRUSTED: &str = "the operator does not trust this nara, or another one with this key";

/// Why no key of a nara is learned that retired, or about whose keys two statements contradict each other.
const NO_KEY_HOLDS: &str =
    "no key of this nara holds: it retired, or two statements about its key contradict each other";

/// Why the first key of a nara is not taken from anywhere.
const NOT_ITS_ADDRESS: &str =
    "the first key of a nara with a configured address is taken from that address only";

/// Why the first key of a nara is not taken from another one.
const NOT_FROM_OTHERS: &str =
    "the first key of a configured nara is taken from itself, not from what others tell";

impl PeerRegistry {
    /// Asks whether a first key from hearsay is believed. No lock is held meanwhile; should another key be pinned
    /// by then, that is a conflict like any other.
    pub(super) fn check_trust(&self, info: &PeerInfo) -> Result<(), RegisterError> {
        let (Some(key), Some(name)) = (&info.key, &info.name) else {
            return Ok(());
        };
        if !key.source.is_hearsay() {
            return Ok(());
        }
        let halves = self.find(info);
        let keyless = matches!(
            self.key_state(name.as_str()),
            Some(KeyState::Conflict | KeyState::Retired)
        );
        let known = halves
            .into_iter()
            .map(|peer| peer.info())
            .reduce(|mut known, half| {
                known.fill_from(half);
                known
            });
        if known.as_ref().is_some_and(|known| known.key.is_some()) && !keyless {
            return Ok(());
        }
        let offer = KeyOffer {
            name,
            id: info.id.as_ref(),
            key: &key.key,
            source: &key.source,
            known: known.as_ref(),
            stored: false,
        };
        let either_port = known.as_ref().is_some_and(|known| known.either_port);
        let configured_at = known.as_ref().and_then(|known| known.configured_at);
        let (reason, why) = if known.as_ref().is_some_and(PeerInfo::is_untrusted) || self.is_banned(&key.key)
        {
            (UNTRUSTED.into(), "untrusted")
        } else if keyless {
            (NO_KEY_HOLDS.into(), "no_key_holds")
        } else if configured_at.is_some_and(|address| {
            !(key.source.is_from(address) || (either_port && key.source.is_from(with_other_port(address))))
        }) {
            (NOT_ITS_ADDRESS.into(), "address")
        } else if known.as_ref().is_some_and(|known| known.configured)
            && key.source.introducer().is_some_and(|teller| teller != Some(name))
        {
            (NOT_FROM_OTHERS.into(), "address")
        } else if let Some(hidden) = name.hidden().filter(|_| configured_at.is_none()) {
            let reason = format!(
                "its name has a character that cannot be seen ({}), so it can be taken for another; name it in the peers \
                 file if it is meant",
                hidden.escape_unicode()
            );
            (reason.into(), "hidden_name")
        } else {
            match self.trust().decide(&offer) {
                Ok(()) => return Ok(()),
                Err(reason) => (reason, "policy"),
            }
        };
        let refused = KeyRefused {
            name: name.clone(),
            offered: key.key,
            offered_by: key.source.clone(),
            reason,
        };
        ::metrics::counter!(metrics::KEYS_REFUSED, "reason" => why).increment(1);
        self.emit(PeerEvent::KeyRefused(refused.clone()));
        Err(refused.into())
    }

    /// Tells subscribers of a key that contradicts the pinned one, if it does. Whatever it is, nothing is pinned.
    pub(crate) fn report_key(&self, offered: &PinnedKey) -> Result<(), KeyConflict> {
        let known = self
            .by_name(offered.name.as_str())
            .and_then(|peer| peer.info().key);
        match known {
            Some(pinned) if pinned.key != offered.key => Err(self.conflict(&pinned, offered)),
            _ => Ok(()),
        }
    }

    pub(super) fn conflict(&self, pinned: &PinnedKey, offered: &PinnedKey) -> KeyConflict {
        let conflict = KeyConflict {
            name: pinned.name.clone(),
            pinned: Box::new(pinned.clone()),
            offered: offered.key,
            offered_by: offered.source.clone(),
        };
        // That a key was replaced is known already.
        if !self.is_replaced(pinned.name.as_str(), &offered.key) {
            ::metrics::counter!(metrics::KEYS_REFUSED, "reason" => "conflict").increment(1);
            self.emit(PeerEvent::KeyConflict(conflict.clone()));
        }
        conflict
    }
}
