//! What is found on a network, as lines.

use nara_mesh::discovery::Found;
use nara_mesh::transport::Candidate;
use nara_tailnet::status::{NodeState, NodeStatus};
use tokio::sync::watch;

use crate::command::serving::Feed;
use crate::lines::FoundLine;
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
pub(in crate::command) fn describe(found: &Found) -> Option<(String, FoundLine)> {
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
                FoundLine::Found {
                    name: peer.name.as_ref().map(ToString::to_string),
                    address: peer.address.map(|address| address.to_string()),
                    key_source: source,
                    host_name_fits: *host_name_fits,
                },
            )
        }
        Found::Refused { candidate, error } => (
            format!("refused  {}  {}", host(candidate), harmless(&error.to_string())),
            FoundLine::Refused {
                host_name: candidate.host_name.clone(),
                reason: error.to_string(),
            },
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
            FoundLine::Contested {
                host_name: candidate.host_name.clone(),
                name: name.to_string(),
                holder: holder.to_string(),
            },
        ),
        Found::Namesake { candidate, same_key } => {
            let also = if *same_key {
                ", with our key"
            } else {
                ", with another key"
            };
            (
                format!("refused  {}  claims to be this nara{also}", host(candidate)),
                FoundLine::Namesake {
                    host_name: candidate.host_name.clone(),
                    same_key: *same_key,
                },
            )
        }
        Found::Offline(candidate) => (
            format!("offline  {}", host(candidate)),
            FoundLine::Offline {
                host_name: candidate.host_name.clone(),
            },
        ),
        Found::Left(candidate) => (
            format!("left  {}", host(candidate)),
            FoundLine::Left {
                host_name: candidate.host_name.clone(),
            },
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
                let reason = reason.to_string();
                let text = format!("network  {}", harmless(&reason));
                feed.send(text, FoundLine::NetworkLost { reason });
            }
            NodeState::Running => {
                feed.send("network  back".to_owned(), FoundLine::NetworkBack);
            }
            _ => {}
        }
    }
}
