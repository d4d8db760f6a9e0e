//! Server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::Stream;
use http::HeaderMap;
use serde::Serialize;

use crate::Problem;

/// The keep-alive interval of a silent stream.
const ALIVE: Duration = Duration::from_secs(15);

/// Creates an event with a JSON body.
pub(super) fn event(name: &str, body: &impl Serialize) -> Event {
    let json = serde_json::to_string(body).unwrap_or_default();
    Event::default().event(name).data(json)
}

/// Returns the id of the last event that a reconnecting caller received.
pub(super) fn last_event_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("last-event-id")?.to_str().ok()
}

/// Creates the last event of a failed stream.
pub(super) fn failed(problem: &Problem) -> Event {
    event("problem", problem)
}

/// Creates an answer of events.
pub(super) fn answer(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    use futures_util::StreamExt as _;
    Sse::new(events.map(Ok::<_, Infallible>))
        .keep_alive(KeepAlive::new().interval(ALIVE))
        .into_response()
}
