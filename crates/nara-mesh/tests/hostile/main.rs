//! What peers must not be able to do to a server, tried over real sockets, or over networks in memory where
//! time is part of the question.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
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
