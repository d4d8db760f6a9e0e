use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use nara_proto::v2::{ContentDigest, DigestHasher};
use tokio::time::Instant;

use super::error::{ClientError, Problem};
use super::pool::Lease;
use super::verified::BodyProof;
use crate::registry::{KeyEnd, KeyLease};

/// The body of an answer, streamed. [`AnswerBody::proof`] tells how it is authenticated.
///
/// Fails if the key of the peer is replaced or removed before the end. Dropping it before the end closes its
/// connection.
pub struct AnswerBody {
    state: State,
    proof: BodyProof,
    /// Label of the peer for error messages.
    peer: String,
    /// Fires when the key under which the body was opened is replaced or removed.
    key_end: Option<KeyEnd>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "one per answer; a box would cost an allocation"
)]
enum State {
    Whole(Full<Bytes>),
    Arriving {
        body: Incoming,
        /// Taken at the end of the body.
        lease: Option<Lease>,
        /// The signed digest and the hash so far; taken at the end of the body.
        digest: Option<(ContentDigest, DigestHasher)>,
    },
    /// An error was returned.
    Failed,
}

impl AnswerBody {
    /// Creates a body that is complete and verified.
    pub(super) fn whole(body: Bytes, proof: BodyProof, peer: String) -> Self {
        Self {
            state: State::Whole(Full::new(body)),
            proof,
            peer,
            key_end: None,
        }
    }

    /// Creates a body that is still arriving. With a digest, it fails at its end if the digest differs.
    pub(super) fn arriving(
        body: Incoming,
        lease: Lease,
        digest: Option<ContentDigest>,
        proof: BodyProof,
        peer: String,
        opened_on: Option<KeyLease>,
    ) -> Self {
        let mut this = Self {
            state: State::Arriving {
                body,
                lease: Some(lease),
                digest: digest.map(|digest| (digest, DigestHasher::default())),
            },
            proof,
            peer,
            key_end: opened_on.map(KeyEnd::from),
        };
        this.settle();
        this
    }

    /// Returns how the body is authenticated.
    pub fn proof(&self) -> BodyProof {
        self.proof
    }

    /// Returns the connection to the pool once the body is complete: a reader that knows the length does not poll
    /// again.
    fn settle(&mut self) {
        if let State::Arriving {
            body,
            lease,
            digest: None,
        } = &mut self.state
            && body.is_end_stream()
            && let Some(lease) = lease.take()
        {
            lease.give_back(Instant::now());
        }
    }

    fn fail(&mut self, problem: Problem) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        self.state = State::Failed;
        Poll::Ready(Some(Err(ClientError::new(&self.peer, problem))))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = ClientError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        let this = &mut *self;
        match &mut this.state {
            State::Failed => Poll::Ready(None),
            State::Whole(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(|never| match never {})))
            }
            // Checked first, so that it also applies while the peer is silent.
            State::Arriving { .. } if this.key_end.as_mut().is_some_and(|end| end.has_come(cx)) => {
                this.fail(Problem::KeyReplaced)
            }
            State::Arriving { body, lease, digest } => match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let (Some((_, hasher)), Some(data)) = (digest, frame.data_ref()) {
                        hasher.update(data);
                    }
                    this.settle();
                    Poll::Ready(Some(Ok(frame)))
                }
                Some(Err(error)) => this.fail(Problem::from(error)),
                None => {
                    if let Some((signed, hasher)) = digest.take()
                        && let Err(error) = signed.check_same(&hasher.finish())
                    {
                        return this.fail(Problem::Signature(error));
                    }
                    if let Some(lease) = lease.take() {
                        lease.give_back(Instant::now());
                    }
                    Poll::Ready(None)
                }
            },
        }
    }

    /// With a digest, the stream has not ended before the comparison.
    fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Whole(body) => body.is_end_stream(),
            State::Arriving { body, digest, .. } => digest.is_none() && body.is_end_stream(),
            State::Failed => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            State::Whole(body) => body.size_hint(),
            State::Arriving { body, .. } => body.size_hint(),
            State::Failed => SizeHint::with_exact(0),
        }
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerBody")
            .field("proof", &self.proof)
            .finish_non_exhaustive()
    }
}
