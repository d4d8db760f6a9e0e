//! Live streams, end to end: on an in-memory network, with paused time.

#![expect(clippy::unwrap_used, reason = "a test that cannot continue fails")]

mod hostile;
mod limits;
mod seeded;
mod streaming;
mod support;
