//! The local API over real sockets, as programs of the machine use it, and as attackers try to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

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
