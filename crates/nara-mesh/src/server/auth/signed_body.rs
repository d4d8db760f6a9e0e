use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use nara_proto::v2::{ContentDigest, DigestHasher};

/// A body that fails at its end if it is not the one whose digest was signed. Whoever reads it to the end without an
/// error has what the sender sent.
#[derive(Debug)]
pub(in crate::server) struct SignedBody {
    inner: Body,
    expected: ContentDigest,
    /// Until the end was reached.
    hasher: Option<DigestHasher>,
}

impl SignedBody {
    pub(in crate::server) fn new(inner: Body, expected: ContentDigest) -> Self {
        Self {
            inner,
            expected,
            hasher: Some(DigestHasher::default()),
        }
    }
}

impl HttpBody for SignedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)).transpose()? else {
            let outcome = self
                .hasher
                .take()
                .map(|hasher| self.expected.check_same(&hasher.finish()));
            let error = outcome.and_then(Result::err).map(axum::Error::new);
            return Poll::Ready(error.map(Err));
        };
        if let (Some(hasher), Some(data)) = (&mut self.hasher, frame.data_ref()) {
            hasher.update(data);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Not before the digest was looked at.
    fn is_end_stream(&self) -> bool {
        self.hasher.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn read(body: &'static [u8], signed: &[u8]) -> Result<Bytes, axum::Error> {
        let body = SignedBody::new(Body::from(body), ContentDigest::of(signed));
        Ok(Body::new(body).collect().await?.to_bytes())
    }

    #[tokio::test]
    async fn only_the_signed_body_can_be_read_to_its_end() {
        assert_eq!(read(b"{}", b"{}").await.unwrap(), "{}");
        assert_eq!(read(b"", b"").await.unwrap(), "");
        assert!(read(b"{}", b"[]").await.is_err());
        assert!(read(b"", b"[]").await.is_err());
        assert!(read(b"{}", b"").await.is_err());
    }

    /// Whoever believes that a body is at its end does not read it, and would take one that nobody signed.
    #[tokio::test]
    async fn a_body_is_not_at_its_end_before_its_digest_was_looked_at() {
        for content in ["", "{}"] {
            let signed = ContentDigest::of(content.as_bytes());
            let mut body = SignedBody::new(Body::from(content), signed);
            assert!(!body.is_end_stream(), "{content:?}");
            while let Some(frame) = body.frame().await {
                assert!(!body.is_end_stream(), "{content:?}");
                frame.unwrap();
            }
            assert!(body.is_end_stream(), "{content:?}");
        }
    }

    #[test]
    fn a_body_announces_what_the_one_inside_of_it_announces() {
        let body = SignedBody::new(Body::from("[1]"), ContentDigest::of(b"[1]"));
        assert_eq!(body.size_hint().exact(), Some(3));
    }
}
