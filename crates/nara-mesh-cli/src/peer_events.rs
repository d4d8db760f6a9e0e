//! What happens to peers, as far as the operator should know, in words.

use std::collections::HashSet;

use nara_mesh::registry::{KeyConflict, PeerEvent, PeerInfo, Verdict};
use nara_proto::identity::{KeyId, NaraName, PublicKey};
use serde_json::{Value, json};

use crate::printer::harmless;
use crate::remedy;

/// Things that were told already; beyond it they are told again.
const TOLD: usize = 1024;

/// Shows what happens again and again only once: peers cause it.
#[derive(Debug, Default)]
pub(crate) struct Told(HashSet<About>);

impl Told {
    /// Whether this was not told yet.
    pub(crate) fn is_news(&mut self, event: &PeerEvent) -> bool {
        if let PeerEvent::Decided(info) = event {
            // What is wrong from now on is another matter.
            self.0.retain(|told| Some(&told.name) != info.name.as_ref());
        }
        let Some(about) = About::of(event) else {
            return true;
        };
        if self.0.len() >= TOLD {
            self.0.clear();
        }
        self.0.insert(about)
    }
}

/// What makes two events the same to a reader.
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

/// A line about an event, for people and as JSON; `None`: not worth one.
pub(crate) fn line(event: &PeerEvent) -> Option<(String, Value)> {
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
            let json = json!({
                "event": "address_mismatch", "claimed": claimed, "owner": owner, "address": address.to_string(),
            });
            Some((text, json))
        }
        PeerEvent::Decided(info) => Some(decided(info)),
        PeerEvent::Downgrade { peer, missing } => {
            let name = harmless(&peer.label());
            let text = format!(
                "refused  {name} no longer does what it did before ({missing}): an attacker strips it, or \
                 {name} went back to an older version; if you are sure of that, run `{}`",
                peer.name
                    .as_ref()
                    .map(|name| remedy::trust_again(name, true))
                    .unwrap_or_default()
            );
            Some((
                text,
                json!({ "event": "downgrade", "name": name, "missing": missing }),
            ))
        }
        PeerEvent::KeyConflict(conflict) => {
            let text = format!(
                "conflict  {}",
                harmless_line(&format!("{conflict}: {}", remedy::of_conflict(conflict)))
            );
            Some((text, conflict_json(conflict)))
        }
        _ => None,
    }
}

fn decided(info: &PeerInfo) -> (String, Value) {
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
    let json = json!({
        "event": "decided", "name": info.label(), "verdict": verdict.map(Verdict::as_str), "key_id": key,
    });
    (text, json)
}

/// A conflict as JSON.
pub(crate) fn conflict_json(conflict: &KeyConflict) -> Value {
    json!({
        "event": "key_conflict",
        "name": conflict.name.as_str(),
        "pinned_key_id": KeyId::from(&conflict.pinned.key).to_string(),
        "pinned_source": conflict.pinned.source.to_string(),
        "offered_key_id": KeyId::from(&conflict.offered).to_string(),
        "offered_by": conflict.offered_by.to_string(),
        "remedy": remedy::of_conflict(conflict),
    })
}

/// As [`harmless`], but not cut: it ends with what to do.
fn harmless_line(text: &str) -> String {
    let escape = |character: char| -> String {
        if character.is_control() {
            character.escape_default().collect()
        } else {
            character.to_string()
        }
    };
    text.chars().map(escape).collect()
}
