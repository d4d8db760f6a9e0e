//! Tests nodes run by `tailscaled` against a fake daemon.

#![expect(clippy::unwrap_used, reason = "a panic fails the test")]

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

/// A timeout that fails a test which would wait for ever.
const LONG: Duration = Duration::from_secs(30);

/// Starts a running daemon and the node that follows it.
async fn running() -> (tempfile::TempDir, FakeDaemon, TailscaledNode) {
    let folder = tempfile::tempdir().unwrap();
    let daemon = FakeDaemon::start(folder.path());
    let node = TailscaledNode::new(daemon.socket());
    nara_tailnet::MeshNode::ready(&node, LONG).await.unwrap();
    (folder, daemon, node)
}
