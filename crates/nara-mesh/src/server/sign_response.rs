//! Middleware that signs answers (docs/protocol/v1.md, section 5; profile v2).
//!
//! It needs the whole body before it can write the headers, so it buffers; it lets pass what says that it must not.

mod layer;
mod service;

pub(super) use layer::SignResponseLayer;
pub(super) use service::SignResponse;

/// In the extensions of an answer: its body has no end, so it is not signed as a whole and not held back. What it
/// says proves itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unbuffered;
