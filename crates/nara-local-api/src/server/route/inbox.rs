use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

use super::sse;
use crate::model::{Acknowledged, Acknowledgement, InboxMessage, InboxPage};
use crate::server::extract::{Body, Query};
use crate::server::inbox::{Inbox, Place};
use crate::server::state::{Answer, Shared};
use crate::{Problem, ProblemClass};

/// The default number of messages of an answer.
const PAGE: usize = 100;

/// The most messages of an answer.
const MAX_PAGE: usize = 1024;

/// Messages that a live stream reads per batch.
const BATCH: usize = 32;

/// Selects a page of the inbox.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct InboxParams {
    /// Begin after this cursor. Without it, with the oldest unacknowledged message.
    after: Option<String>,
    /// Number of messages: 1 to 1024, by default 100.
    limit: Option<usize>,
}

/// Unacknowledged messages of peers, oldest first
#[utoipa::path(
    get,
    path = "/v1/inbox",
    tag = "inbox",
    params(InboxParams),
    responses((status = 200, body = InboxPage), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Query(params): Query<InboxParams>,
) -> Answer<InboxPage> {
    let most = params.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&most) {
        return Err(Problem::invalid(format!("limit: 1 to {MAX_PAGE}, not {most}")));
    }
    let after = place(&shared.inbox, params.after.as_deref())?;
    let (messages, dropped) = shared.inbox.behind(after, most);
    Ok(Json(InboxPage {
        next: messages.last().map(|message| message.cursor.clone()),
        messages,
        dropped,
        is_durable: shared.inbox.is_durable(),
    }))
}

/// The start of a live stream of the inbox.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LiveInboxParams {
    /// Begin after this cursor. The header `Last-Event-ID` is equivalent. Without it, with the oldest
    /// unacknowledged message.
    after: Option<String>,
}

/// Messages of peers as they arrive, as server-sent events `message` (`InboxMessage`)
#[utoipa::path(
    get,
    path = "/v1/inbox/live",
    tag = "inbox",
    params(LiveInboxParams),
    responses(
        (status = 200, body = InboxMessage, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn live(
    State(shared): State<Arc<Shared>>,
    Query(params): Query<LiveInboxParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let last = sse::last_event_id(&headers);
    let after = place(&shared.inbox, last.or(params.after.as_deref()))?;
    let messages = follow(shared.inbox.clone(), after);
    Ok(sse::answer(shared.until_stopped(messages)))
}

/// Reads only as fast as the caller does.
fn follow(inbox: Inbox, after: Place) -> impl Stream<Item = axum::response::sse::Event> + Send {
    let news = inbox.news();
    let batches = stream::unfold((inbox, news, after), |(inbox, mut news, after)| async move {
        loop {
            news.mark_unchanged();
            let (messages, _) = inbox.behind(after, BATCH);
            if let Some(last) = messages.last() {
                let after = last.cursor.parse().unwrap_or_else(|()| inbox.end());
                let event =
                    |message: &InboxMessage| sse::event("message", message).id(message.cursor.clone());
                let events: Vec<_> = messages.iter().map(event).collect();
                return Some((events, (inbox, news, after)));
            }
            news.changed().await.ok()?;
        }
    });
    batches.flat_map(stream::iter)
}

/// Acknowledge messages: all up to a cursor are removed from the inbox
#[utoipa::path(
    post,
    path = "/v1/inbox/acknowledge",
    tag = "inbox",
    request_body = Acknowledgement,
    responses((status = 200, body = Acknowledged), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn acknowledge(
    State(shared): State<Arc<Shared>>,
    Body(done): Body<Acknowledgement>,
) -> Answer<Acknowledged> {
    let through = place(&shared.inbox, Some(&done.through))?;
    let acknowledged = shared.inbox.acknowledge(through);
    // Acknowledged messages must not reappear after a crash.
    shared.inbox.settled().await;
    Ok(Json(Acknowledged { acknowledged }))
}

/// Parses a cursor of the inbox.
fn place(inbox: &Inbox, cursor: Option<&str>) -> Result<Place, Problem> {
    let Some(text) = cursor else {
        return Ok(inbox.start());
    };
    let place: Place = text
        .parse()
        .map_err(|()| Problem::invalid(format!("{text:?} is not a cursor of the inbox")))?;
    if inbox.has(place) {
        return Ok(place);
    }
    let detail = "the cursor belongs to an earlier inbox of this nara";
    let problem = Problem::new("cursor_gone", StatusCode::GONE, ProblemClass::Failed, detail);
    Err(problem.hint("begin without a cursor"))
}
