//! Authentication of requests.

pub(in crate::server) mod authenticator;
mod clock_refusal;
pub(in crate::server) mod key_discovery;
pub(in crate::server) mod request_proof;
pub(in crate::server) mod sender;
pub(in crate::server) mod source_check;
pub(in crate::server) mod verified_body;
pub(in crate::server) mod verify;
