//! Middleware that lets only authenticated requests through.
//!
//! The sender's identity travels in the extensions of the request as [`VerifiedSender`](super::VerifiedSender).
//! V1 peers write it to the header `X-Nara-Verified`; whatever a peer sends under that name
//! is removed here, so that nothing behind can mistake it for proof.

mod layer;
mod service;

pub(super) use layer::VerifyRequestLayer;
pub(super) use service::VerifyRequest;
