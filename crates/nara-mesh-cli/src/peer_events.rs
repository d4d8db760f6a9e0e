//! Formats peer events that concern the operator.

use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};

use nara_mesh::registry::{KeyConflict, PeerEvent, PeerInfo, SuccessionEffect, Verdict};
use nara_proto::identity::{KeyId, NaraName, PublicKey};
use nara_proto::succession::{Lineage, Succession};
use serde::Serialize;
use utoipa::ToSchema;

use crate::log::Repetitions;
use crate::output::printable;
use crate::printer::harmless;
use crate::remedy;

/// A line about a peer or about our own key.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum PeerLine {
    /// A request that claimed to be from a nara came from the address of another one, and was refused.
    AddressMismatch {
        claimed: String,
        owner: String,
        address: String,
    },
    /// The operator decided whether to trust a peer.
    Decided {
        name: String,
        /// `trusted` or `untrusted`; absent after a reset.
        verdict: Option<String>,
        key_id: Option<String>,
    },
    /// A peer no longer uses a protection that it has proven to support.
    Downgrade { name: String, missing: String },
    /// A name was used with another key than the pinned one.
    KeyConflict(ConflictLine),
    /// A peer does not accept our key as the key of this nara.
    OwnKeyRefused {
        peer: String,
        own_key_id: String,
        known_key_id: Option<String>,
        /// Whether the answer of the peer is authenticated.
        proven: bool,
        remedy: String,
    },
    /// A statement replaces or retires our own key.
    OwnKeyReplaced {
        name: String,
        own_key_id: String,
        new_key_id: Option<String>,
        remedy: String,
    },
    /// A peer replaced or retired its key.
    Succession {
        /// `followed`, `retired`, `conflict` or `asked`.
        effect: String,
        name: String,
        old_key_id: String,
        new_key_id: Option<String>,
        new_key: Option<String>,
    },
    /// The name of a new peer is confusable with a known one.
    LookAlike { name: String, known: String },
    /// A peer that refused our key accepts it again.
    OwnKeyAccepted { peer: String },
}

impl PeerLine {
    /// Returns the remedy, if the line has one as a separate field.
    pub(crate) fn remedy(&self) -> Option<&str> {
        match self {
            Self::KeyConflict(ConflictLine { remedy, .. })
            | Self::OwnKeyRefused { remedy, .. }
            | Self::OwnKeyReplaced { remedy, .. } => Some(remedy),
            _ => None,
        }
    }
}

/// Two keys for one name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConflictLine {
    name: String,
    pinned_key_id: String,
    pinned_source: String,
    offered_key_id: String,
    offered_by: String,
    remedy: String,
}

/// Capacity of the memory of reported events; beyond it, they are reported again.
const TOLD: usize = 1024;

/// Reports recurring events once and limits the rate of the others: peers can cause both.
#[derive(Debug, Default)]
pub(crate) struct Told {
    told: HashSet<About>,
    kinds: Repetitions<Discriminant<PeerEvent>>,
}

impl Told {
    /// Returns whether this event is new and should be reported.
    pub(crate) fn is_news(&mut self, event: &PeerEvent) -> bool {
        if let PeerEvent::Decided(info) = event {
            // After a decision, later events about the peer are new.
            self.told.retain(|told| Some(&told.name) != info.name.as_ref());
            return true;
        }
        let about = About::of(event);
        if about.as_ref().is_some_and(|about| self.told.contains(about))
            || !self.kinds.admits(discriminant(event))
        {
            return false;
        }
        if self.told.len() >= TOLD {
            self.told.clear();
        }
        self.told.extend(about);
        true
    }
}

/// The identity of an event for deduplication.
#[derive(Debug, PartialEq, Eq, Hash)]
struct About {
    kind: &'static str,
    name: NaraName,
    key: Option<PublicKey>,
    other: Option<String>,
}

impl About {
    fn of(event: &PeerEvent) -> Option<Self> {
        let (kind, name, key, other) = match event {
            PeerEvent::AddressMismatch {
                claimed,
                owner,
                address,
            } => {
                let other = Some(format!("{address} {owner}"));
                ("mismatch", claimed.clone(), None, other)
            }
            PeerEvent::Downgrade { peer, missing } => {
                ("downgrade", peer.name.clone()?, None, Some((*missing).to_owned()))
            }
            PeerEvent::KeyConflict(conflict) => {
                ("conflict", conflict.name.clone(), Some(conflict.offered), None)
            }
            PeerEvent::LookAlike { peer, known } => {
                ("look-alike", peer.name.clone()?, None, Some(known.to_string()))
            }
            _ => return None,
        };
        Some(Self {
            kind,
            name,
            key,
            other,
        })
    }
}

/// Formats an event for people and as JSON; `None` if it is not worth a line.
pub(crate) fn line(event: &PeerEvent) -> Option<(String, PeerLine)> {
    match event {
        PeerEvent::AddressMismatch {
            claimed,
            owner,
            address,
        } => {
            let (claimed, owner) = (harmless(claimed.as_str()), harmless(owner.as_str()));
            let text = format!(
                "refused  a request in the name of {claimed} from {address}, which belongs to {owner}"
            );
            let address = address.to_string();
            let line = PeerLine::AddressMismatch {
                claimed,
                owner,
                address,
            };
            Some((text, line))
        }
        PeerEvent::Decided(info) => Some(decided(info)),
        PeerEvent::Downgrade { peer, missing } => {
            let name = harmless(&peer.label());
            let text = format!(
                "refused  {name} no longer does what it did before ({missing}): an attacker removed it, or \
                 {name} went back to an older version; if that is intended, run `{}`",
                peer.name
                    .as_ref()
                    .map(|name| remedy::trust_again(name, true))
                    .unwrap_or_default()
            );
            let missing = (*missing).to_owned();
            Some((text, PeerLine::Downgrade { name, missing }))
        }
        PeerEvent::KeyConflict(conflict) => {
            let text = format!(
                "conflict  {}",
                printable(&format!("{conflict}: {}", remedy::of_conflict(conflict)))
            );
            Some((text, conflict_line(conflict)))
        }
        PeerEvent::LookAlike { peer, known } => {
            let (name, known) = (harmless(&peer.label()), harmless(known.as_str()));
            let text = format!("new  {name} looks like {known} but is a different nara: do not confuse them");
            Some((text, PeerLine::LookAlike { name, known }))
        }
        PeerEvent::OwnKeyAccepted(peer) => {
            let peer = harmless(&peer.label());
            let text = format!("own key  {peer} accepts our key again");
            Some((text, PeerLine::OwnKeyAccepted { peer }))
        }
        PeerEvent::OwnKeyRefused {
            peer,
            own: (name, key),
            known,
            proven,
        } => Some(own_key_refused(peer, (name, key), *known, *proven)),
        PeerEvent::OwnKeyReplaced(statement) => Some(own_key_replaced(statement)),
        PeerEvent::Succession { statement, effect } => Some(succession(statement, *effect)),
        _ => None,
    }
}

/// Formats the refusal of our key by a peer.
fn own_key_refused(
    peer: &PeerInfo,
    (name, key): (&NaraName, &PublicKey),
    known: Option<KeyId>,
    proven: bool,
) -> (String, PeerLine) {
    let peer = harmless(&peer.label());
    let shown = harmless(name.as_str());
    let own = KeyId::from(key);
    let unproven = if proven {
        ""
    } else {
        " (this answer is not authenticated)"
    };
    let said = match known {
        Some(known) => format!("{peer} knows key {known} as the key of {shown}, and refuses our key {own}"),
        None => format!("{peer} accepts no key of {shown}, and refuses our key {own}"),
    };
    let remedy = format!(
        "if this soul is new, publish the succession with the old one (`nara-mesh id succeed --to FILE`), or ask the operator of {peer} to run \
         `{}`; if the soul is not new, the name or the soul is in use elsewhere",
        remedy::trust(name, key, true)
    );
    let text = format!("own key  {said}{unproven}: {remedy}");
    let line = PeerLine::OwnKeyRefused {
        peer,
        own_key_id: own.to_string(),
        known_key_id: known.map(|known| known.to_string()),
        proven,
        remedy,
    };
    (text, line)
}

/// Formats a statement that replaces or retires the key of this nara.
fn own_key_replaced(statement: &Succession) -> (String, PeerLine) {
    let name = harmless(statement.name().as_str());
    let old = KeyId::from(statement.old_key());
    let new = statement.new_key().map(KeyId::from);
    let said = match new {
        Some(new) => format!("a signed statement replaces the key of this nara, {old}, by key {new}"),
        None => format!("a signed statement retires this nara and its key {old}"),
    };
    let remedy = match new {
        Some(_) => format!(
            "peers that follow it refuse this nara; if you made it, serve with the new soul; if not, the soul was stolen: ask the \
             operators of your peers to run `nara-mesh peers untrust {}`",
            remedy::shell_word(statement.name())
        ),
        None => "peers refuse this nara from now on; if you did not make it, the soul was stolen: create a new one with \
             `nara-mesh id new --name NAME --out FILE`, and give its key to the operators of your peers"
            .to_owned(),
    };
    let text = format!("own key  {said}: {remedy}");
    let line = PeerLine::OwnKeyReplaced {
        name,
        own_key_id: old.to_string(),
        new_key_id: new.map(|new| new.to_string()),
        remedy,
    };
    (text, line)
}

fn succession(statement: &Succession, effect: SuccessionEffect) -> (String, PeerLine) {
    let name = harmless(statement.name().as_str());
    let (old, new) = (
        KeyId::from(statement.old_key()),
        statement.new_key().map(KeyId::from),
    );
    let trust = |key: &PublicKey| format!("`{}`", remedy::trust(statement.name(), key, true));
    let (word, text) = match (effect, statement.new_key()) {
        (SuccessionEffect::Followed, Some(key)) => (
            "followed",
            format!(
                "{name} has the new key {}, signed by its old key {old}, which is now refused",
                KeyId::from(key)
            ),
        ),
        (SuccessionEffect::Retired | SuccessionEffect::Followed, _) => {
            ("retired", format!("{name} retired: its key {old} is now refused"))
        }
        (SuccessionEffect::Conflict, _) => (
            "conflict",
            format!(
                "two statements name different successors of key {old} of {name} (the key may be stolen), or {name} changed its key more than \
                 {} times; neither is followed, and {name} is refused until you decide; ask its owner, then run {}",
                Lineage::MAX_STEPS,
                trust(statement.new_key().unwrap_or_else(|| statement.old_key()))
            ),
        ),
        (SuccessionEffect::Asked, Some(key)) => (
            "asked",
            format!(
                "key {old} of {name} names key {} as its successor; to accept it, run {}, or change its key in the peers file \
                 and run `nara-mesh reload`",
                KeyId::from(key),
                trust(key)
            ),
        ),
        (SuccessionEffect::Asked, None) => (
            "asked",
            format!(
                "key {old} of {name} states that it is retired; to accept that, run `nara-mesh peers untrust {name}`"
            ),
        ),
    };
    let line = PeerLine::Succession {
        effect: word.to_owned(),
        name: statement.name().to_string(),
        old_key_id: old.to_string(),
        new_key_id: new.map(|new| new.to_string()),
        new_key: statement.new_key().map(PublicKey::to_base64),
    };
    (format!("succession  {text}"), line)
}

fn decided(info: &PeerInfo) -> (String, PeerLine) {
    let name = harmless(&info.label());
    let verdict = info.decision.map(|decision| decision.verdict);
    let key = info
        .key
        .as_ref()
        .map(|pinned| KeyId::from(&pinned.key).to_string());
    let text = match (verdict, &key) {
        (Some(Verdict::Trusted), Some(key)) => format!("trusted  {name}  key {key}"),
        (Some(verdict), _) => format!("{}  {name}", verdict.as_str()),
        (None, _) => format!("decided  {name}"),
    };
    let line = PeerLine::Decided {
        name: info.label(),
        verdict: verdict.map(|verdict| verdict.as_str().to_owned()),
        key_id: key,
    };
    (text, line)
}

/// Builds a line about a conflict.
pub(crate) fn conflict_line(conflict: &KeyConflict) -> PeerLine {
    PeerLine::KeyConflict(ConflictLine {
        name: conflict.name.to_string(),
        pinned_key_id: KeyId::from(&conflict.pinned.key).to_string(),
        pinned_source: conflict.pinned.source.to_string(),
        offered_key_id: KeyId::from(&conflict.offered).to_string(),
        offered_by: conflict.offered_by.to_string(),
        remedy: remedy::of_conflict(conflict),
    })
}

#[cfg(test)]
mod tests {
    use nara_mesh::registry::{KeySource, PinnedKey};
    use nara_proto::identity::{KeyPair, Soul};
    use nara_proto::time::UnixMillis;

    use super::*;

    /// A conflict about a name; `number` determines the offered key.
    fn conflict(name: &str, number: u8) -> PeerEvent {
        let key = |number| KeyPair::from_soul(&Soul::bond([number; 32], "x")).public_key();
        let name: NaraName = name.parse().unwrap();
        PeerEvent::KeyConflict(KeyConflict {
            pinned: Box::new(PinnedKey {
                name: name.clone(),
                id: None,
                key: key(0),
                source: KeySource::Configured,
                learned_at: UnixMillis::new(1),
            }),
            name,
            offered: key(number),
            offered_by: KeySource::HeyThere { told_by: None },
        })
    }

    #[test]
    fn a_peer_that_offers_key_after_key_causes_a_few_lines() {
        let mut told = Told::default();
        assert!(told.is_news(&conflict("alice", 1)));
        assert!(!told.is_news(&conflict("alice", 1)), "the same event again");
        let lines = (2..200).filter(|number| told.is_news(&conflict("alice", *number)));
        assert_eq!(lines.count(), 9);
        // Every decision is reported, also a repeated one.
        let decided = PeerEvent::Decided(PeerInfo::default());
        assert!((0..100).all(|_| told.is_news(&decided)));
    }
}
