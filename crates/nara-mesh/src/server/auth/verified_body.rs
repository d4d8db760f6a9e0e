//! Bodies that are checked at their end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use nara_proto::v1::RequestAuth;
use nara_proto::v2::{ContentDigest, DigestHasher};

use crate::server::auth::authenticator::Authenticator;

/// The check of a body's digest.
#[derive(Debug)]
pub(in crate::server) enum BodyCheck {
    /// It must equal the signed one.
    Signed(ContentDigest),
    /// It must not have arrived with this v1 signature before.
    New {
        authenticator: Arc<Authenticator>,
        auth: RequestAuth,
        address: SocketAddr,
    },
}

impl BodyCheck {
    fn accept(self, found: &ContentDigest) -> Result<(), axum::Error> {
        match self {
            Self::Signed(digest) => digest.check_same(found).map_err(axum::Error::new),
            Self::New {
                authenticator,
                auth,
                address,
            } => authenticator
                .remember_body(&auth, address, found)
                .map_err(axum::Error::new),
        }
    }
}

/// A body that fails at its end if its digest is not accepted. A reader that reaches the end without an error has what
/// the sender sent.
#[derive(Debug)]
pub(in crate::server) struct VerifiedBody<B> {
    inner: B,
    check: Check,
}

#[derive(Debug)]
enum Check {
    /// There is nothing to check.
    None,
    /// The end is not reached yet; boxed, because connections that prove bodies need no check.
    Pending(Box<(DigestHasher, BodyCheck)>),
    /// The end was reached.
    Done,
}

impl<B> VerifiedBody<B> {
    pub(in crate::server) fn new(inner: B, check: Option<BodyCheck>) -> Self {
        let check = check.map(|check| Check::Pending(Box::new((DigestHasher::default(), check))));
        Self {
            inner,
            check: check.unwrap_or(Check::None),
        }
    }
}

impl<B> HttpBody for VerifiedBody<B>
where
    B: HttpBody<Data = Bytes, Error = axum::Error> + Unpin,
{
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)).transpose()? else {
            return Poll::Ready(match std::mem::replace(&mut self.check, Check::Done) {
                Check::Pending(pending) => {
                    let (hasher, check) = *pending;
                    check.accept(&hasher.finish()).err().map(Err)
                }
                Check::None | Check::Done => None,
            });
        };
        if let (Check::Pending(pending), Some(data)) = (&mut self.check, frame.data_ref()) {
            pending.0.update(data);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// `false` until the digest was checked.
    fn is_end_stream(&self) -> bool {
        match self.check {
            Check::None => self.inner.is_end_stream(),
            Check::Pending(_) => false,
            Check::Done => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;

    use super::*;

    fn signed(body: &'static [u8], signed: &[u8]) -> VerifiedBody<Body> {
        let check = BodyCheck::Signed(ContentDigest::of(signed));
        VerifiedBody::new(Body::from(body), Some(check))
    }

    async fn read(body: &'static [u8], signed_as: &[u8]) -> Result<Bytes, axum::Error> {
        Ok(signed(body, signed_as).collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn only_the_signed_body_can_be_read_to_its_end() {
        assert_eq!(read(b"{}", b"{}").await.unwrap(), "{}");
        assert_eq!(read(b"", b"").await.unwrap(), "");
        assert!(read(b"{}", b"[]").await.is_err());
        assert!(read(b"", b"[]").await.is_err());
        assert!(read(b"{}", b"").await.is_err());
    }

    /// A reader that considers a body complete does not read it, and would accept an unsigned one.
    #[tokio::test]
    async fn a_body_is_not_at_its_end_before_its_digest_was_looked_at() {
        for content in ["", "{}"] {
            let mut body = signed(content.as_bytes(), content.as_bytes());
            assert!(!body.is_end_stream(), "{content:?}");
            while let Some(frame) = body.frame().await {
                assert!(!body.is_end_stream(), "{content:?}");
                frame.unwrap();
            }
            assert!(body.is_end_stream(), "{content:?}");
        }
    }

    #[test]
    fn a_body_has_the_size_hint_of_its_inner_body() {
        assert_eq!(signed(b"[1]", b"[1]").size_hint().exact(), Some(3));
    }
}
