//! Signed requests and signed responses (docs/protocol/v1.md, sections 4 and 5), and the replay cache.
//!
//! Signing and verifying build the signed bytes with the same function, so that they cannot drift apart.
//!
//! What this inherited signature does *not* cover, and [profile v2](crate::signature) does: the body, the query, the
//! recipient. What verifies here is
//! therefore only the sender, the time, the method and the path; the replay cache and the inner signatures of
//! bodies do the rest.

mod headers;
mod replay;
mod request;
mod response;
mod stamp;

pub use headers::{AuthHeader, HeaderError, NAME_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};
pub use replay::{ReplayCache, ReplayEntry, ReplayError};
pub use request::{RequestAuth, RequestAuthError, request_signature_base, signed_path};
pub use response::{ResponseAuth, ResponseAuthError, body_hash, response_signature_base};
pub use stamp::Stamp;

use std::time::Duration;

/// How far the time of a request may lie from the receiver's clock, either way. Exactly this far is fine.
pub const FRESHNESS_WINDOW: Duration = Duration::from_secs(30);
