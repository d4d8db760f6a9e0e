//! Signatures of protocol v1. Specification: `docs/protocol/v1.md`, sections 4 and 5.
//!
//! Signing and verifying share the function that makes the signed bytes, so the two cannot drift apart.
//!
//! A v1 signature covers sender, time, method and path of a request. It does *not* cover body, query and recipient: the
//! [replay cache](crate::replay) and the signatures inside bodies compensate for part of that; [profile v2](crate::v2)
//! covers everything.

mod headers;
mod request;
mod response;
mod stamp;

pub use headers::{AuthHeader, HeaderError, NAME_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};
pub use request::{RequestAuth, RequestAuthError, request_signature_base, signed_path};
pub use response::{ResponseAuth, ResponseAuthError, body_hash, response_signature_base};
pub use stamp::Stamp;

use std::time::Duration;

/// The greatest difference between the time of a request and the receiver's clock, either way, inclusive.
pub const FRESHNESS_WINDOW: Duration = Duration::from_secs(30);
