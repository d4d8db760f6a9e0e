//! Attacks over real sockets: a man in the middle between our client and a server, and malicious peers. Each is tried
//! against v1, against profile v2, and over TLS. Attacks that v1 allows are asserted as such, under a name that says
//! so. `docs/threat-model.md` has the table; attacks in `tests/hostile`, `tests/client` and `tests/stream` are not
//! repeated here.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that cannot continue fails the test"
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
