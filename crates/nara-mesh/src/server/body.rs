//! Reading and writing bodies within bounds.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use nara_proto::event::SyncEvent;
use nara_proto::go_json::{self, Merge};
use tower_http::timeout::TimeoutBody;

use super::ServerLimits;
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
            let slow = std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source())
                .any(<dyn std::error::Error>::is::<tower_http::timeout::TimeoutError>);
            Err(if slow {
                Rejection::BodyTooSlow
            } else {
                Rejection::BodyBroken
            })
        }
    }
}

/// Reads a request body as JSON. What it says is logged, not told: the naras already out there do not tell.
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

/// The content type of the others (wire facts, section 6).
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
