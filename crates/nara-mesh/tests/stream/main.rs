//! Live streams, end to end: on a network in memory, in paused time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod hostile;
mod limits;
mod seeded;
mod streaming;
mod support;
