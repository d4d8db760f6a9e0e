//! Routes of the application on the server of a nara, over real sockets: what is verified before a handler runs, what is
//! signed behind it, and which bounds hold.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

mod bounds;
mod coverage;
#[path = "../support/naras.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod naras;
mod signed;
mod streams;
mod support;
