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

/// The body of an answer as it arrives. [`AnswerBody::proof`] says what proves it.
///
/// It ends with an error if the key of the peer is replaced or removed meanwhile. Dropping it before its end closes its
/// connection.
pub struct AnswerBody {
    state: State,
    proof: BodyProof,
    /// For messages.
    peer: String,
    /// Ends when the key on which it was opened does.
    key_end: Option<KeyEnd>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "one for each answer, where a box would cost an allocation"
)]
enum State {
    Whole(Full<Bytes>),
    Arriving {
        body: Incoming,
        /// Taken when the end has come.
        lease: Option<Lease>,
        /// What was signed, and what has come so far; taken when the end has come.
        digest: Option<(ContentDigest, DigestHasher)>,
    },
    /// An error was given out.
    Failed,
}

impl AnswerBody {
    /// A body that is here and proven.
    pub(super) fn whole(body: Bytes, proof: BodyProof, peer: String) -> Self {
        Self {
            state: State::Whole(Full::new(body)),
            proof,
            peer,
            key_end: None,
        }
    }

    /// A body that is still to come. With a digest, its end is an error unless the body has this digest.
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

    /// What proves the body.
    pub fn proof(&self) -> BodyProof {
        self.proof
    }

    /// Gives the connection back once there is nothing more to read: a reader that knows the length asks no further.
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
            // Also where the peer is silent.
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

    /// With a digest, not before it was compared.
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
