//! Server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::Stream;
use http::HeaderMap;
use serde::Serialize;

use crate::Problem;

/// How often a silent stream says that it is alive.
const ALIVE: Duration = Duration::from_secs(15);

/// One event with a body of JSON.
pub(super) fn event(name: &str, body: &impl Serialize) -> Event {
    let json = serde_json::to_string(body).unwrap_or_default();
    Event::default().event(name).data(json)
}

/// The id of the last event that a caller had before it came back.
pub(super) fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id")?.to_str().ok()
}

/// The end of a stream that failed.
pub(super) fn failed(problem: &Problem) -> Event {
    event("problem", problem)
}

/// An answer of events.
pub(super) fn answer(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    use futures_util::StreamExt as _;
    Sse::new(events.map(Ok::<_, Infallible>))
        .keep_alive(KeepAlive::new().interval(ALIVE))
        .into_response()
}
