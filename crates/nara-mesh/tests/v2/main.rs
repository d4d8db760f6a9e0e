//! Signatures of profile v2, over real sockets: two naras that speak it, those who do not, and those who would rather
//! that nobody did.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
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
