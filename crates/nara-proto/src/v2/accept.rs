use http::{HeaderName, HeaderValue};

/// The header with which a request asks for a signed answer (RFC 9421, section 5.1).
pub const ACCEPT_SIGNATURE_HEADER: HeaderName = HeaderName::from_static("accept-signature");

/// What it asks for: the one signature of an answer that there is. That it asks is all that counts to a server of this
/// profile.
pub const ACCEPT_SIGNATURE: HeaderValue = HeaderValue::from_static(
    r#"nara=("@status" "content-digest" "x-nara-name" "signature";req);created;alg="ed25519";tag="nara-mesh""#,
);
