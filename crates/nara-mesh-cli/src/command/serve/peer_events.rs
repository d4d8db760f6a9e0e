//! What happens to peers, as far as the operator should know, as lines on stdout.

use std::collections::HashSet;

use nara_mesh::registry::{KeyConflict, PeerEvent, PeerInfo, Verdict, retrust_command};
use nara_proto::identity::{KeyId, NaraName, PublicKey};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::feed::Feed;
use crate::printer::harmless;

/// Things that were told already; beyond it they are told again.
const TOLD: usize = 1024;

/// Tells them until the registry is gone. Whoever repeats itself is shown once: peers cause these lines.
pub(super) async fn show(mut events: broadcast::Receiver<PeerEvent>, feed: Feed) {
    let mut told = HashSet::new();
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!("{missed} events of peers were missed");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        if let Some((text, json)) = line(&event) {
            if let PeerEvent::Decided(info) = &event {
                // What is conflicting from now on is another matter.
                told.retain(|told: &About| Some(&told.name) != info.name.as_ref());
            } else if let Some(about) = About::of(&event) {
                if told.len() >= TOLD {
                    told.clear();
                }
                if !told.insert(about) {
                    continue;
                }
            }
            feed.send(text, json);
        }
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

fn line(event: &PeerEvent) -> Option<(String, Value)> {
    match event {
        PeerEvent::AddressMismatch {
            claimed,
            owner,
            address,
        } => {
            let (claimed, owner) = (harmless(claimed.as_str()), harmless(owner.as_str()));
            let text =
                format!("refused  a request as {claimed} came from {address}, which belongs to {owner}");
            let json = json!({
                "event": "address_mismatch", "claimed": claimed, "owner": owner, "address": address.to_string(),
            });
            Some((text, json))
        }
        PeerEvent::Decided(info) => Some(decided(info)),
        PeerEvent::Downgrade { peer, missing } => {
            let name = harmless(&peer.label());
            let text = format!(
                "refused  {name} does less than it has proven that it can ({missing}): somebody is in between, or \
                 it went back to an older version; if you are sure of that, run `{}`",
                peer.name
                    .as_ref()
                    .map(|name| retrust_command(name, true))
                    .unwrap_or_default()
            );
            Some((
                text,
                json!({ "event": "downgrade", "name": name, "missing": missing }),
            ))
        }
        PeerEvent::KeyConflict(conflict) => {
            let text = format!("conflict  {}", harmless_line(&conflict.to_string()));
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
        "event": "decided", "name": name, "verdict": verdict.map(Verdict::as_str), "key_id": key,
    });
    (text, json)
}

fn conflict_json(conflict: &KeyConflict) -> Value {
    json!({
        "event": "key_conflict",
        "name": conflict.name.as_str(),
        "pinned_key_id": KeyId::from(&conflict.pinned.key).to_string(),
        "pinned_source": conflict.pinned.source.to_string(),
        "offered_key_id": KeyId::from(&conflict.offered).to_string(),
        "offered_by": conflict.offered_by.to_string(),
        "remedy": conflict.remedy(),
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
