//! JSON answers.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use nara_proto::event::SyncEvent;
use nara_proto::go_json;

use crate::offload::offload;
use crate::server::answer::hold::{Held, PIECE};
use crate::server::answer::rejection::Rejection;
use crate::server::limits::answer_bytes::AnswerBytes;
use crate::server::limits::body_bytes::Source;

/// The content type of most JSON answers.
pub(in crate::server) const JSON_UTF8: &str = "application/json; charset=utf-8";

/// The content type of the other JSON answers (docs/protocol/v1.md, section 6).
pub(in crate::server) const JSON: &str = "application/json";

/// Returns a JSON answer with its final newline.
pub(in crate::server) fn json<T: serde::Serialize>(
    status: StatusCode,
    content_type: &'static str,
    value: &T,
) -> Response {
    raw_json(status, content_type, go_json::to_body(value))
}

fn raw_json(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Which end of a list of events is cut off if the answer would exceed the peer's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::server) enum Surplus {
    /// The events at the front.
    Front,
    /// The events at the back.
    Back,
}

/// The maximum number of events that are encoded inline: less than a millisecond of work.
const ENCODED_HERE: usize = 64;

/// Returns a JSON answer with events: as many as fit into `max` bytes, encoded and signed off the async threads.
/// `build` receives whether some were cut off; `take` returns the events of what it built. An answer of more than one
/// piece counts against `bytes` until it is sent.
pub(in crate::server) async fn json_of_events<T: serde::Serialize>(
    bytes: &AnswerBytes,
    source: Source,
    events: Vec<SyncEvent>,
    max: usize,
    surplus: Surplus,
    build: impl Fn(Vec<SyncEvent>, bool) -> T + Send + 'static,
    take: impl Fn(T) -> Option<Vec<SyncEvent>> + Send + 'static,
) -> Result<Response, Rejection> {
    let many = events.len() > ENCODED_HERE;
    let body = offload(many, move || encode(events, max, surplus, build, take)).await;
    if body.len() <= PIECE {
        // Its connection takes it at once.
        return Ok(raw_json(StatusCode::OK, JSON_UTF8, body));
    }
    let room = bytes.take(source, body.len()).await;
    let room = room.ok_or(Rejection::Busy("bytes of answers"))?;
    Ok(Held::in_room(raw_json(StatusCode::OK, JSON_UTF8, body), room))
}

fn encode<T: serde::Serialize>(
    mut events: Vec<SyncEvent>,
    max: usize,
    surplus: Surplus,
    build: impl Fn(Vec<SyncEvent>, bool) -> T,
    take: impl Fn(T) -> Option<Vec<SyncEvent>>,
) -> Vec<u8> {
    let mut cut = false;
    loop {
        let count = events.len();
        let answer = build(events, cut);
        let body = go_json::to_body(&answer);
        if body.len() <= max || count <= 1 {
            return body;
        }
        events = take(answer).unwrap_or_default();
        cut = true;
        match surplus {
            Surplus::Front => drop(events.drain(..count - count / 2)),
            Surplus::Back => events.truncate(count / 2),
        }
    }
}
