//! Routes of the application on the server of a nara, over real sockets: verification before a handler, signatures
//! after it, and bounds.
#![expect(
    clippy::unwrap_used,
    reason = "a test helper that cannot continue fails the test"
)]

mod bounds;
mod coverage;
#[path = "../support/naras.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod naras;
mod signed;
mod streams;
mod support;
