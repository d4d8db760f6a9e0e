//! The node of a `tailscaled`, against a fake one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod connections;
mod faults;
mod managed;
mod peers;
mod ready;
#[path = "../support/localapi.rs"]
mod support;

use std::time::Duration;

use nara_tailnet::tailscaled::TailscaledNode;
use support::FakeDaemon;

/// Longer than anything here takes: a test that waits for ever fails instead.
const LONG: Duration = Duration::from_secs(30);

/// A daemon that runs and the node that follows it.
async fn running() -> (tempfile::TempDir, FakeDaemon, TailscaledNode) {
    let folder = tempfile::tempdir().unwrap();
    let daemon = FakeDaemon::start(folder.path());
    let node = TailscaledNode::new(daemon.socket());
    nara_tailnet::MeshNode::ready(&node, LONG).await.unwrap();
    (folder, daemon, node)
}
