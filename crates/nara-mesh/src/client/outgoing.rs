use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use nara_proto::endpoint::{Authentication, Endpoint};

use super::error::ErrorKind;

/// A request of any endpoint, not yet signed.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) target: PathAndQuery,
    pub(super) body: Option<Bytes>,
    pub(super) authentication: Authentication,
    pub(super) content_type: &'static str,
    pub(super) idempotent: bool,
    pub(super) max_answer: usize,
    /// Headers beside those of the protocol.
    pub(super) headers: HeaderMap,
}

impl Outgoing {
    pub(super) fn new<E: Endpoint>(request: &E::Request) -> Result<Self, ErrorKind> {
        let target = match E::query(request) {
            Some(query) => PathAndQuery::try_from(format!("{}?{query}", E::PATH)),
            None => PathAndQuery::try_from(E::PATH),
        };
        Ok(Self {
            method: E::METHOD,
            target: target.map_err(|error| ErrorKind::InvalidRequest(error.into()))?,
            body: E::encode(request).map(Bytes::from),
            authentication: E::AUTHENTICATION,
            content_type: E::CONTENT_TYPE,
            idempotent: E::IDEMPOTENT,
            max_answer: E::MAX_RESPONSE,
            headers: HeaderMap::new(),
        })
    }
}
