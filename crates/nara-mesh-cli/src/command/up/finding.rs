//! Prints what is found on a network.

use nara_mesh::discovery::Found;
use nara_tailnet::status::{NodeState, NodeStatus};
use tokio::sync::watch;

use crate::command::serving::Feed;
use crate::found::describe;
use crate::lines::FoundLine;
use crate::printer::harmless;

/// Prints a finding, unless it is of no interest.
pub(super) fn tell(found: &Found, feed: &Feed) {
    if let Found::NoAnswer { candidate, error } = found {
        // Most nodes of a tailnet may not run a nara.
        tracing::info!(host_name = %harmless(&candidate.host_name), %error, "no nara answers");
    }
    if let Some((text, json)) = describe(found) {
        feed.send(text, json);
    }
}

/// Prints when the node loses its network, and when it is connected again.
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
                tracing::warn!("the node is not connected to its network: {reason}");
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
