//! Live streams, end to end: on a network in memory, in paused time.

mod hostile;
mod limits;
mod seeded;
mod streaming;
mod support;
