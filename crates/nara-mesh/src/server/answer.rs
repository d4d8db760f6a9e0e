//! Answers to peers: bodies, refusals, signatures.

pub(in crate::server) mod hold;
pub(in crate::server) mod json;
pub(in crate::server) mod rejection;
pub(in crate::server) mod sign;
pub(in crate::server) mod streamed;
