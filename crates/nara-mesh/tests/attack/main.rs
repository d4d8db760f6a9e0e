//! Attacks over real sockets: an active man in the middle between our client and a server, and malicious peers.
//! Each is tried against v1, against signature profile v2, and over TLS. What v1 leaves possible is asserted as
//! such, under a name that says so. `docs/threat-model.md` has the table; attacks that `tests/hostile`,
//! `tests/client` or `tests/stream` try already are not repeated here.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

mod addresses;
mod clocks;
#[path = "../support/fake_peer.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod fake_peer;
mod floods;
mod keys;
mod legacy;
mod memory;
mod message;
#[path = "../support/naras.rs"]
mod naras;
mod proxy;
#[path = "../support/raw_http.rs"]
mod raw_http;
mod relay;
mod replays;
mod road;
mod service;
mod smuggling;
mod succession;
#[path = "../hostile/support.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod support;
mod swaps;
mod tellers;
mod tls;
mod together;
mod v2;
