//! Answers in JSON.

use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use nara_proto::event::SyncEvent;
use nara_proto::go_json;

/// The content type of most JSON answers.
pub(in crate::server) const JSON_UTF8: &str = "application/json; charset=utf-8";

/// The content type of the others (docs/protocol/v1.md, section 6).
pub(in crate::server) const JSON: &str = "application/json";

/// A JSON answer with its final newline.
pub(in crate::server) fn json<T: serde::Serialize>(
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
pub(in crate::server) enum Surplus {
    /// The events at the front.
    Front,
    /// The events at the back.
    Back,
}

/// A JSON answer made of events: as many as fit into `max` bytes. `build` is told whether some were cut off;
/// `take` gets the events back from what it built.
pub(in crate::server) fn json_of_events<T: serde::Serialize>(
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
