//! Reading and writing bodies within bounds.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Frame, SizeHint};
use nara_proto::event::SyncEvent;
use nara_proto::go_json::{self, Merge};
use nara_proto::v2::SignatureError;
use tower_http::timeout::TimeoutBody;

use super::ServerLimits;
use super::body_budget::OverBudget;
use super::rejection::Rejection;

/// Reads a whole request body of at most `max` bytes.
pub(super) async fn read(body: Body, max: usize, limits: &ServerLimits) -> Result<Bytes, Rejection> {
    // Who announces too much is told at once, instead of being listened to up to the limit.
    if body.size_hint().lower() > max as u64 {
        return Err(Rejection::BodyTooLarge(max));
    }
    let body = Limited::new(TimeoutBody::new(limits.body_progress, body), max);
    let Ok(outcome) = tokio::time::timeout(limits.body_total, body.collect()).await else {
        return Err(Rejection::BodyTooSlow);
    };
    match outcome {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Rejection::BodyTooLarge(max)),
        Err(error) => {
            tracing::debug!(%error, "cannot read a request body");
            let over_budget =
                std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source())
                    .find_map(|error| error.downcast_ref::<OverBudget>());
            if let Some(over_budget) = over_budget {
                return Err(Rejection::BodyBudget(*over_budget));
            }
            let caused_by = |is_cause: fn(&(dyn std::error::Error + 'static)) -> bool| {
                std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source())
                    .any(is_cause)
            };
            Err(
                if caused_by(|error| error.is::<tower_http::timeout::TimeoutError>()) {
                    Rejection::BodyTooSlow
                } else if caused_by(|error| error.is::<SignatureError>()) {
                    Rejection::OtherBody
                } else {
                    Rejection::BodyBroken
                },
            )
        }
    }
}

/// Reads a request body as JSON. What it says is logged, not told: v1 peers do not tell.
pub(super) async fn read_json<T: Merge>(
    body: Body,
    max: usize,
    limits: &ServerLimits,
) -> Result<T, Rejection> {
    let body = read(body, max, limits).await?;
    go_json::from_slice(&body).map_err(|error| {
        tracing::info!(%error, "request body refused");
        Rejection::InvalidJson
    })
}

/// The content type of most JSON answers.
pub(super) const JSON_UTF8: &str = "application/json; charset=utf-8";

/// The content type of the others (docs/protocol/v1.md, section 6).
pub(super) const JSON: &str = "application/json";

/// A JSON answer with its final newline.
pub(super) fn json<T: serde::Serialize>(
    status: StatusCode,
    content_type: &'static str,
    value: &T,
) -> Response {
    raw_json(status, content_type, go_json::to_body(value))
}

fn raw_json(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response {
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    (status, [content_type], body).into_response()
}

/// Which end of a list of events is given up when the answer would be larger than a peer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Surplus {
    /// The events at the front.
    Front,
    /// The events at the back.
    Back,
}

/// A JSON answer made of events: as many as fit into `max` bytes. `build` is told whether some were cut off;
/// `take` gets the events back from what it built.
pub(super) fn json_of_events<T: serde::Serialize>(
    mut events: Vec<SyncEvent>,
    max: usize,
    surplus: Surplus,
    build: impl Fn(Vec<SyncEvent>, bool) -> T,
    take: impl Fn(T) -> Option<Vec<SyncEvent>>,
) -> Response {
    let mut cut = false;
    loop {
        let count = events.len();
        let answer = build(events, cut);
        let body = go_json::to_body(&answer);
        if body.len() <= max || count <= 1 {
            return raw_json(StatusCode::OK, JSON_UTF8, body);
        }
        events = take(answer).unwrap_or_default();
        cut = true;
        match surplus {
            Surplus::Front => drop(events.drain(..count - count / 2)),
            Surplus::Back => events.truncate(count / 2),
        }
    }
}

/// What an answer is cut into that holds something: the connection takes the next piece when it has sent most of
/// those before.
const PIECE: usize = 64 << 10;

/// An answer that holds something, such as a place, until its last piece is on its way or its connection is gone.
pub(super) fn hold<G: Send + Unpin + 'static>(response: Response, held: G) -> Response {
    response.map(|body| {
        Body::new(Holding {
            body,
            piece: Bytes::new(),
            _held: held,
        })
    })
}

struct Holding<G> {
    body: Body,
    /// What was taken from the body and is not given out yet.
    piece: Bytes,
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
