//! Our nara among v1 peers: over an in-memory network with paused time, and over real sockets.

#![expect(clippy::unwrap_used, reason = "tests and their helpers may panic")]

mod catching_up;
#[path = "../support/fake_peer.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod fake_peer;
mod messages;
#[path = "../support/naras.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod naras;
mod old_ledgers;
mod ports;
mod presence;
mod support;
#[path = "../support/v1_peer.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod v1_peer;
