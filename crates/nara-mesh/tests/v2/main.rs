//! Signatures of profile v2, over real sockets: two naras that support it, naras that do not, and attackers that want
//! to prevent it.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that cannot continue fails the test"
)]

mod answers;
#[path = "../support/fake_peer.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod fake_peer;
mod inner_signature;
mod learning;
#[path = "../support/naras.rs"]
mod naras;
#[path = "../support/raw_http.rs"]
mod raw_http;
mod requests;
mod support;
