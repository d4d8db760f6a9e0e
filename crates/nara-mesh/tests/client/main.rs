//! The client against peers made by hand: mostly over a network in memory and with paused time, so that
//! seconds cost nothing and nothing depends on the speed of the machine.

#![expect(
    clippy::unwrap_used,
    reason = "a test may panic, and so may what it is made of"
)]

mod bulk;
mod calls;
mod clocks;
mod connections;
mod deadlines;
mod events;
#[path = "../support/fake_peer.rs"]
mod fake_peer;
mod hostile;
#[path = "../support/naras.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod naras;
mod observers;
mod open;
mod pinning;
mod poll;
mod ports;
mod reconcile;
mod retry_after;
mod routing;
mod service;
mod support;
mod verification;
