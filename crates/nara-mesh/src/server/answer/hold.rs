//! Answers that hold a resource until they are sent.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use crate::server::connection::watch::{LEAST_TIME_TO_READ, Watch};
use crate::server::limits::answer_bytes::{Reader, Room};

/// The size of the pieces of such an answer: the connection takes the next piece when it has sent most of the previous
/// ones.
pub(super) const PIECE: usize = 64 << 10;

/// An extension of an answer: the resource that it holds until it is sent.
#[derive(Clone)]
pub(in crate::server) struct Held {
    #[expect(dead_code, reason = "it is only dropped")]
    held: Arc<dyn Any + Send + Sync>,
    /// The room in which its bytes count, if any.
    room: Option<Arc<Room>>,
}

impl Held {
    /// Returns an answer that holds a resource until its last piece is being sent or its connection is closed, even if
    /// its body is replaced meanwhile, for example by a signed one.
    pub(in crate::server) fn until_sent(mut response: Response, held: impl Any + Send + Sync) -> Response {
        let before = response.extensions_mut().remove::<Self>();
        let room = before.as_ref().and_then(|before| before.room.clone());
        let held = Arc::new((held, before));
        response.extensions_mut().insert(Self { held, room });
        response
    }

    /// Returns an answer that holds this room until then, and may lose it to other answers.
    pub(super) fn in_room(mut response: Response, room: Arc<Room>) -> Response {
        let (held, room) = (room.clone(), Some(room));
        response.extensions_mut().insert(Self { held, room });
        response
    }
}

/// The slowest allowed reader: half a megabit per second.
const BYTES_PER_SECOND: u64 = 64 << 10;

/// Makes the body of an answer hold the resources in its extensions. They are not available to other answers meanwhile,
/// so a connection whose peer does not read in time is closed.
pub(in crate::server) fn hold(mut response: Response, connection: &Arc<Watch>) -> Response {
    let Some(held) = response.extensions_mut().remove::<Held>() else {
        return response;
    };
    let seconds = response.body().size_hint().lower() / BYTES_PER_SECOND;
    let time = LEAST_TIME_TO_READ + Duration::from_secs(seconds);
    let in_time = connection.read_within(time);
    let reader = held.room.as_ref().map(|room| room.read_by(connection));
    response.map(|body| {
        Body::new(Holding {
            body,
            piece: Bytes::new(),
            reader,
            _held: (held, in_time),
        })
    })
}

struct Holding<G> {
    body: Body,
    /// Bytes taken from the body that are not returned yet.
    piece: Bytes,
    reader: Option<Arc<Reader>>,
    _held: G,
}

impl<G: Unpin> HttpBody for Holding<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.piece.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.piece = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let size = self.piece.len().min(PIECE);
        if let Some(reader) = &self.reader {
            reader.took(size);
        }
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.piece.len() as u64;
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint.set_lower(rest.lower().saturating_add(ahead));
        hint
    }
}
