//! Middleware that signs answers (wire facts, section 5).
//!
//! It needs the whole body before it can write the headers, so it buffers; streams do not belong under it.

mod layer;
mod service;

pub(super) use layer::SignResponseLayer;
pub(super) use service::SignResponse;
