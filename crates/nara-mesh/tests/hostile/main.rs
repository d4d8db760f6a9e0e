//! Attacks of peers on a server, over real sockets, or over in-memory networks where time matters.

#![expect(
    clippy::unwrap_used,
    reason = "a test helper that cannot continue fails the test"
)]

mod authentication;
mod bodies;
mod clocks;
mod connections;
mod discovery;
mod events;
mod journeys;
mod limits;
mod messages;
#[path = "../support/naras.rs"]
mod naras;
#[path = "../support/raw_http.rs"]
mod raw_http;
mod said_port;
mod source;
mod support;
mod trust;
