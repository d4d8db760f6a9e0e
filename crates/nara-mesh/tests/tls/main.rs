//! Secure connections, end to end: on an in-memory network, with paused time.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

mod attacks;
mod calls;
mod connections;
mod handshake;
#[path = "../support/naras.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod naras;
mod service;
mod support;
mod trust;
