//! The local API over real sockets, as local programs and attackers use it.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

mod attack;
mod broken;
#[path = "../support/compatible.rs"]
mod compatible;
mod document;
mod events;
mod loopback;
mod messages;
mod outbox;
mod places;
mod scene;
mod services;
mod transfers;
