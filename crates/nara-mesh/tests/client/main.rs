//! The client against hand-written peers: mostly over an in-memory network with paused time, so that waiting is free
//! and nothing depends on the speed of the machine.

#![expect(clippy::unwrap_used, reason = "tests and their helpers may panic")]

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
mod slow_lines;
mod support;
mod verification;
