//! Requests as they are sent, signed now.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request, Uri};
use http_body_util::Full;
use nara_proto::endpoint::Authentication;
use nara_proto::identity::Signature;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{NAME_HEADER, RequestAuth, TIMESTAMP_HEADER};
use nara_proto::v2::{
    AcceptSignature, ChannelBinding, ContentDigest, Nonce, RequestLine, RequestToSign, SignedBody,
};

use super::MeshClient;
use super::address::Route;
use super::outgoing::Outgoing;
use crate::Signatures;
use crate::random::random;
use crate::tls::{ChannelTrust, SecureChannel};

/// As many headers as a request has, and more: their table is made once, and never grows.
const HEADERS: usize = 12;

/// The signatures with which a request went out: an answer of profile v2 is bound to them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SentSignatures {
    pub(super) v1: Option<Signature>,
    pub(super) v2: Option<Signature>,
    /// Whether the connection is proof enough for the answer.
    pub(super) trusts_channel: bool,
}

impl MeshClient {
    /// The request as it is sent, signed now, for the connection on which it will be sent.
    pub(super) fn sign(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        channel: Option<&SecureChannel>,
    ) -> (Request<Full<Bytes>>, SentSignatures) {
        let mut request = Request::new(outgoing.body.clone().map(Full::new).unwrap_or_default());
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = Uri::from(outgoing.target.clone());
        let host = HeaderValue::try_from(route.address.to_string());
        let headers = request.headers_mut();
        headers.clone_from(&outgoing.headers);
        headers.reserve(HEADERS);
        headers.insert(HOST, host.expect("an address is ASCII"));
        if outgoing.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(outgoing.content_type));
        }
        let mut sent = SentSignatures::default();
        if outgoing.authentication == Authentication::Signed {
            let now = self.signing_time(route);
            sent.v2 = self.sign_v2(route, outgoing, channel, now, headers);
            // Who speaks v2 accepts nothing less, so a second signature would be made for nobody.
            if sent.v2.is_none() || !route.speaks_v2(&self.shared.registry) {
                sent.v1 = Some(self.sign_v1(outgoing, now, headers));
            }
            if let (Some(channel), Some(_)) = (channel, sent.v2) {
                sent.trusts_channel = sent.v1.is_none()
                    && self.shared.channel_trust == ChannelTrust::Trust
                    && route.peer.key() == Some(channel.peer_key);
                if !sent.trusts_channel {
                    AcceptSignature::Digest.write_to(headers);
                }
            }
        }
        (request, sent)
    }

    fn sign_v1(&self, outgoing: &Outgoing, now: UnixMillis, headers: &mut HeaderMap) -> Signature {
        let local = &self.shared.local;
        let (method, path) = (outgoing.method.as_str(), outgoing.target.path());
        let auth = RequestAuth::sign(local.keypair(), local.name(), now, method, path);
        auth.write_to(headers);
        *auth.signature()
    }

    /// Signs with profile v2, unless this nara does not, or nobody knows for whom the request is.
    fn sign_v2(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        channel: Option<&SecureChannel>,
        now: UnixMillis,
        headers: &mut HeaderMap,
    ) -> Option<Signature> {
        if self.shared.signatures == Signatures::V1Only {
            return None;
        }
        let to = route.recipient()?;
        let signed = self.shared.local.signer().sign_request(&RequestToSign {
            line: RequestLine {
                method: outgoing.method.as_str(),
                path: outgoing.target.path(),
                query: outgoing.target.query(),
            },
            to: &to,
            body: SignedBody::Digest(ContentDigest::of(outgoing.body.as_deref().unwrap_or_default())),
            now,
            nonce: Nonce::new(now, random()),
            channel: channel.map(|channel| ChannelBinding::new(channel.binding)),
        });
        signed.write_to(headers);
        headers.insert(TIMESTAMP_HEADER, HeaderValue::from(now.get()));
        debug_assert!(headers.contains_key(NAME_HEADER), "v2 covers the name");
        Some(*signed.signature())
    }
}
