//! Signs requests at the moment of sending.

use std::sync::{Arc, PoisonError, RwLock};

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request, Uri};
use nara_proto::endpoint::Authentication;
use nara_proto::identity::Signature;
use nara_proto::succession::SUCCESSION_HEADER;
use nara_proto::time::UnixMillis;
use nara_proto::v1::{NAME_HEADER, RequestAuth, SIGNATURE_HEADER, TIMESTAMP_HEADER};
use nara_proto::v2::{
    self, AcceptSignature, CAPABILITY_HEADER, ChannelBinding, ContentDigest, Nonce, RequestLine,
    RequestToSign, SignedBody, SignedField,
};

use super::clocks::PeerClocks;
use super::pool::Connection;
use super::request::Outgoing;
use super::resolve::Route;
use crate::Signatures;
use crate::announcement::Announcement;
use crate::identity::LocalNara;
use crate::random::random;
use crate::registry::PeerRegistry;
use crate::tls::{ChannelTrust, SecureChannel};
use crate::trace;

/// Initial capacity of the header map, sufficient for most requests. Larger maps are not served from the
/// allocator's cache.
const HEADERS: usize = 12;

/// The same for requests without a signature.
const HEADERS_UNSIGNED: usize = 6;

/// Signs the requests of one nara.
#[derive(Debug)]
pub(super) struct RequestSigner {
    pub(super) local: LocalNara,
    pub(super) registry: PeerRegistry,
    pub(super) clocks: Arc<PeerClocks>,
    pub(super) signatures: Signatures,
    pub(super) channel_trust: ChannelTrust,
    /// The succession statements that lead to the current key of this nara, for peers that know an earlier one.
    pub(super) succession: Option<HeaderValue>,
    /// The announcement of this nara's server, once it listens.
    pub(super) announcement: RwLock<Option<Arc<Announcement>>>,
}

/// The signatures of a sent request: a v2 answer is bound to them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SentSignatures {
    pub(super) v1: Option<Signature>,
    pub(super) v2: Option<Signature>,
    /// Whether the connection alone authenticates the answer.
    pub(super) trusts_channel: bool,
}

impl SentSignatures {
    /// A request that its connection alone authenticates.
    const HANDSHAKE: Self = Self {
        v1: None,
        v2: None,
        trusts_channel: true,
    };

    /// Returns whether the request was sent without a signature, because its connection authenticates it.
    pub(super) fn are_replaced_by_the_handshake(&self) -> bool {
        self.trusts_channel && self.v1.is_none() && self.v2.is_none()
    }

    /// Returns whether an answer with these headers claims to be proven.
    pub(super) fn are_answered_by(&self, headers: &HeaderMap) -> bool {
        v2::is_claimed(headers)
            || headers.contains_key(SIGNATURE_HEADER)
            || (self.trusts_channel && headers.contains_key(NAME_HEADER))
    }
}

impl RequestSigner {
    /// Builds and signs the head of a request for the host and the connection to which it will be sent. A
    /// streamed body is not covered by the signature.
    pub(super) fn sign(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        streamed: bool,
        connection: &Connection,
    ) -> (Request<()>, SentSignatures) {
        let channel = connection.channel();
        let leaves_out = channel.is_some() && self.may_leave_out(route, outgoing, streamed, channel);
        let mut request = Request::new(());
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = Uri::from(outgoing.target.clone());
        let headers = request.headers_mut();
        headers.clone_from(&outgoing.headers);
        headers.reserve(if leaves_out { HEADERS_UNSIGNED } else { HEADERS });
        trace::continue_in(headers);
        headers.insert(HOST, connection.host().clone());
        if let (Some(_), Some(content_type)) = (&outgoing.body, outgoing.content_type) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        let mut sent = SentSignatures::default();
        if leaves_out {
            if let Some(announced) = self.announced() {
                headers.insert(CAPABILITY_HEADER, announced);
            }
            if let Some(binding) = connection.binding() {
                headers.insert(SignedField::Channel.header(), binding.clone());
            }
            return (request, SentSignatures::HANDSHAKE);
        }
        if outgoing.authentication == Authentication::Signed {
            let now = self.clocks.signing_time(&route.peer);
            if let Some(announced) = self.announced() {
                headers.insert(CAPABILITY_HEADER, announced);
            }
            let body = if streamed {
                SignedBody::Streamed
            } else {
                SignedBody::Digest(ContentDigest::of(outgoing.body.as_deref().unwrap_or_default()))
            };
            sent.v2 = self.sign_v2(route, outgoing, body, channel, now, headers);
            if let Some(statements) = &self.succession {
                headers.insert(SUCCESSION_HEADER, statements.clone());
            }
            // A peer that speaks v2 refuses v1 signatures, so no second one is needed.
            if sent.v2.is_none() || !route.speaks_v2(&self.registry) {
                sent.v1 = Some(self.sign_v1(outgoing, now, headers));
            }
            sent.trusts_channel = sent.v2.is_some() && sent.v1.is_none() && self.trusts(route, channel);
            if sent.v2.is_some() && !sent.trusts_channel {
                if outgoing.accepts_stream {
                    AcceptSignature::Streamed.write_to(headers);
                } else if channel.is_some() {
                    AcceptSignature::Digest.write_to(headers);
                }
            }
        }
        (request, sent)
    }

    /// Returns the announcement of this nara's address, if strangers could not find it otherwise.
    fn announced(&self) -> Option<HeaderValue> {
        let announcement = self.announcement.read().unwrap_or_else(PoisonError::into_inner);
        announcement
            .as_ref()?
            .for_request(self.clocks.clock().now_millis())
    }

    pub(super) fn announce(&self, announcement: Arc<Announcement>) {
        let mut announced = self.announcement.write().unwrap_or_else(PoisonError::into_inner);
        *announced = Some(announcement);
    }

    /// Returns whether this nara omits signatures if the peer agrees.
    pub(super) fn prefers_handshake(&self) -> bool {
        self.channel_trust == ChannelTrust::Handshake && self.signatures == Signatures::V2AndV1
    }

    /// Returns whether the handshake of the connection authenticates a request, and both ends have said that it
    /// suffices.
    fn may_leave_out(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        streamed: bool,
        channel: Option<&SecureChannel>,
    ) -> bool {
        self.prefers_handshake()
            && outgoing.authentication == Authentication::Signed
            && !(outgoing.needs_signature || streamed)
            && route.peer.takes_handshake() == Some(true)
            && self.trusts(route, channel)
    }

    /// Returns whether a connection authenticates everything sent over it.
    pub(super) fn trusts(&self, route: &Route, channel: Option<&SecureChannel>) -> bool {
        self.channel_trust != ChannelTrust::VerifyAlways
            && channel.is_some_and(|channel| route.peer.key() == Some(channel.peer_key))
    }

    /// Returns whether a future connection to a peer would authenticate everything sent over it.
    pub(super) fn will_trust(&self, route: &Route) -> bool {
        self.channel_trust != ChannelTrust::VerifyAlways
            && self.signatures == Signatures::V2AndV1
            && route.peer.key().is_some()
            && route.recipient().is_some()
            && route.speaks_v2(&self.registry)
    }

    fn sign_v1(&self, outgoing: &Outgoing, now: UnixMillis, headers: &mut HeaderMap) -> Signature {
        let (method, path) = (outgoing.method.as_str(), outgoing.target.path());
        let auth = RequestAuth::sign(self.local.keypair(), self.local.name(), now, method, path);
        auth.write_to(headers);
        *auth.signature()
    }

    /// Signs with v2, unless this nara does not use v2 or the recipient is unknown.
    fn sign_v2(
        &self,
        route: &Route,
        outgoing: &Outgoing,
        body: SignedBody,
        channel: Option<&SecureChannel>,
        now: UnixMillis,
        headers: &mut HeaderMap,
    ) -> Option<Signature> {
        if self.signatures == Signatures::V1Only {
            return None;
        }
        let to = route.recipient()?;
        let signed = self.local.signer().sign_request(&RequestToSign {
            line: RequestLine {
                method: outgoing.method.as_str(),
                path: outgoing.target.path(),
                query: outgoing.target.query(),
            },
            to: &to,
            body,
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
