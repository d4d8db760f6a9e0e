//! Discovery of naras on a changing network, with paused time.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

mod claims;
mod following;
mod nodes;
mod support;
