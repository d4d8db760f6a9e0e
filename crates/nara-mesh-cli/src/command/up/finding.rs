//! What is found on a network, as lines.

use nara_mesh::discovery::Found;
use nara_mesh::transport::Candidate;
use nara_tailnet::status::{NodeState, NodeStatus};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::command::serving::Feed;
use crate::printer::harmless;

/// Says what was found, unless nobody needs to know.
pub(super) fn tell(found: &Found, feed: &Feed) {
    if let Found::NoAnswer { candidate, error } = found {
        // Most nodes of a tailnet may be no naras.
        tracing::info!(host_name = %harmless(&candidate.host_name), %error, "no nara answers");
    }
    if let Some((text, json)) = describe(found) {
        feed.send(text, json);
    }
}

/// A line about what was found; `None`: it is not worth one.
pub(in crate::command) fn describe(found: &Found) -> Option<(String, Value)> {
    let host = |candidate: &Candidate| harmless(&candidate.host_name);
    Some(match found {
        Found::Nara { peer, host_name_fits } => {
            let name = harmless(&peer.label());
            let address = peer
                .address
                .map_or_else(String::new, |address| address.to_string());
            let source = peer.key.as_ref().map(|key| key.source.to_string());
            (
                format!("found  {name}  {address}"),
                json!({
                    "event": "found",
                    "name": peer.name.as_ref().map(|name| name.as_str()),
                    "address": peer.address,
                    "key_source": source,
                    "host_name_fits": host_name_fits,
                }),
            )
        }
        Found::Refused { candidate, error } => (
            format!("refused  {}  {}", host(candidate), harmless(&error.to_string())),
            json!({ "event": "refused", "host_name": candidate.host_name, "reason": error.to_string() }),
        ),
        Found::Contested {
            candidate,
            name,
            holder,
        } => (
            format!(
                "refused  {}  claims to be {}, which is at {holder}",
                host(candidate),
                harmless(name.as_str())
            ),
            json!({ "event": "contested", "host_name": candidate.host_name, "name": name.as_str(), "holder": holder }),
        ),
        Found::Namesake { candidate, same_key } => {
            let also = if *same_key {
                ", with our key"
            } else {
                ", with another key"
            };
            (
                format!("refused  {}  claims to be this nara{also}", host(candidate)),
                json!({ "event": "namesake", "host_name": candidate.host_name, "same_key": same_key }),
            )
        }
        Found::Offline(candidate) => (
            format!("offline  {}", host(candidate)),
            json!({ "event": "offline", "host_name": candidate.host_name }),
        ),
        Found::Left(candidate) => (
            format!("left  {}", host(candidate)),
            json!({ "event": "left", "host_name": candidate.host_name }),
        ),
        _ => return None,
    })
}

/// Says when the node is no longer in touch with its network, and when it is again.
pub(super) async fn tell_status(mut status: watch::Receiver<NodeStatus>, feed: Feed) {
    let mut was_running = status.borrow_and_update().is_running();
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        if now.is_running() == was_running {
            continue;
        }
        was_running = now.is_running();
        match &now.state {
            NodeState::Waiting(reason) => {
                tracing::warn!("the node is not in touch with its network: {reason}");
                let json = json!({ "event": "network_lost", "reason": reason.to_string() });
                feed.send(format!("network  {}", harmless(&reason.to_string())), json);
            }
            NodeState::Running => {
                feed.send("network  back".to_owned(), json!({ "event": "network_back" }));
            }
            _ => {}
        }
    }
}
