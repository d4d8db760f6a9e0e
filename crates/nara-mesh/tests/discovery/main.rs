//! Finding naras on a network that changes, with paused time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod claims;
mod following;
mod nodes;
mod support;
