use http::HeaderMap;
use nara_proto::identity::Signature;
use nara_proto::v1::{RequestAuth, SIGNATURE_HEADER};
use nara_proto::v2::{AcceptSignature, RequestSignature};

/// The signatures of an authenticated request, in its extensions: the answer is signed accordingly.
#[derive(Clone, Debug)]
pub(in crate::server) struct RequestProof {
    v1: Option<String>,
    v2: Option<Signature>,
    /// Whether the connection proves the responder to the sender, which requests no other proof.
    wants_nothing: bool,
    /// Whether its sender accepts an answer that is signed at its head only.
    accepts_stream: bool,
}

impl RequestProof {
    /// Returns the proof of a request that was verified by its v1 signature.
    pub(in crate::server) fn v1(auth: &RequestAuth) -> Self {
        Self {
            v1: Some(auth.signature().to_base64()),
            v2: None,
            wants_nothing: false,
            accepts_stream: false,
        }
    }

    /// Returns the proof of a request that was verified by its v2 signature. If it also carries a v1 signature, its
    /// sender requires one in the answer.
    pub(in crate::server) fn v2(signed: &RequestSignature, headers: &HeaderMap) -> Self {
        let v1 = headers
            .get(SIGNATURE_HEADER)
            .and_then(|value| value.to_str().ok());
        Self {
            v1: v1.map(str::to_owned),
            v2: Some(*signed.signature()),
            wants_nothing: false,
            accepts_stream: AcceptSignature::from_headers(headers) == Some(AcceptSignature::Streamed),
        }
    }

    /// Returns the proof of a request that its connection alone proves.
    pub(in crate::server) fn handshake() -> Self {
        Self {
            v1: None,
            v2: None,
            wants_nothing: true,
            accepts_stream: true,
        }
    }

    /// Returns the same proof on a connection that both ends trust. A sender that does not know that we support v2, or
    /// asks for a signature, still gets one.
    pub(in crate::server) fn on_trusted_channel(mut self, headers: &HeaderMap) -> Self {
        self.wants_nothing = self.v1.is_none() && AcceptSignature::from_headers(headers).is_none();
        self
    }

    /// Returns whether the answer needs no signature.
    pub(in crate::server) fn wants_nothing(&self) -> bool {
        self.wants_nothing
    }

    /// Returns whether a signature of the head is enough for an answer with a streamed body.
    pub(in crate::server) fn accepts_stream(&self) -> bool {
        self.accepts_stream
    }

    /// Returns whether the answer needs a v1 signature.
    pub(in crate::server) fn wants_v1(&self) -> bool {
        self.v1.is_some()
    }

    /// Returns the v2 signature, to which the answer's signature is bound.
    pub(in crate::server) fn signature(&self) -> Option<&Signature> {
        self.v2.as_ref()
    }

    /// Returns the text to which the `hello` of a stream is bound: the stronger signature, base64. `None` if the
    /// request has none.
    pub(in crate::server) fn text(&self) -> Option<String> {
        let v2 = self.v2.as_ref().map(Signature::to_base64);
        v2.or_else(|| self.v1.clone())
    }
}
