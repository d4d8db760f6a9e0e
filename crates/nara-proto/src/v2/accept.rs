use http::{HeaderMap, HeaderName, HeaderValue};

const ACCEPT_SIGNATURE_HEADER: HeaderName = HeaderName::from_static("accept-signature");

/// Which signature a request asks of its answer, in the header `Accept-Signature` (RFC 9421, section 5.1).
///
/// Nothing signs this header. If somebody on the path removes it, the answer is not signed and the client refuses it;
/// if somebody writes [`Streamed`](Self::Streamed) into it, a client that did not ask for a stream refuses the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptSignature {
    /// A signature that covers the digest of the body.
    Digest,
    /// A signature of the head alone is accepted, too: the body may be a stream.
    Streamed,
}

const DIGEST: &str = r#"nara=("@status" "content-digest" "x-nara-name" "signature";req);created;alg="ed25519";tag="nara-mesh""#;
const STREAMED: &str =
    r#"nara=("@status" "x-nara-body" "x-nara-name" "signature";req);created;alg="ed25519";tag="nara-mesh""#;

impl AcceptSignature {
    /// What a request asks for; `None` if it does not ask for a signature. A value that is not known here asks for a
    /// digest, as every value did before streamed bodies existed.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(ACCEPT_SIGNATURE_HEADER)?;
        Some(if value == STREAMED {
            Self::Streamed
        } else {
            Self::Digest
        })
    }

    /// Writes the header, replacing the one that is there.
    pub fn write_to(self, headers: &mut HeaderMap) {
        let value = HeaderValue::from_static(match self {
            Self::Digest => DIGEST,
            Self::Streamed => STREAMED,
        });
        headers.insert(ACCEPT_SIGNATURE_HEADER, value);
    }
}
