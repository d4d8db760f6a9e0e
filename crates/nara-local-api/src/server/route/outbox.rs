use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use serde_json::json;
use tokio_stream::wrappers::BroadcastStream;

use super::sse;
use crate::model::{OutboxEntry, OutboxList, OutboxState};
use crate::server::database::DatabaseError;
use crate::server::extract::Path;
use crate::server::outbox::{Change, OutboxError};
use crate::server::state::{Answer, Shared};
use crate::{Problem, ProblemClass};

/// Messages that wait for their recipients, and the outcome of recent ones
#[utoipa::path(
    get,
    path = "/v1/outbox",
    tag = "outbox",
    responses((status = 200, body = OutboxList), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<OutboxList> {
    let messages = shared.outbox.list();
    let is_waiting = |entry: &&OutboxEntry| entry.state == OutboxState::Waiting;
    Json(OutboxList {
        waiting: messages.iter().filter(is_waiting).count(),
        messages,
        is_durable: shared.outbox.is_durable(),
    })
}

/// One message of the outbox
#[utoipa::path(
    get,
    path = "/v1/outbox/{id}",
    tag = "outbox",
    params(("id" = u64, Path, description = "Its id")),
    responses((status = 200, body = OutboxEntry), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn one(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Answer<OutboxEntry> {
    let found = shared.outbox.one(id);
    found.map(Json).ok_or_else(|| unknown(id))
}

/// Withdraw a waiting message, or remove a finished one from the list
#[utoipa::path(
    delete,
    path = "/v1/outbox/{id}",
    tag = "outbox",
    params(("id" = u64, Path, description = "Its id")),
    responses((status = 200, body = OutboxEntry), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn remove(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Answer<OutboxEntry> {
    let removed = shared.outbox.remove(id).await?;
    removed.map(Json).ok_or_else(|| unknown(id))
}

/// The outbox, as server-sent events: `message` (`OutboxEntry`) for each message and each change of one,
/// `removed` with its id once it is no longer listed
#[utoipa::path(
    get,
    path = "/v1/outbox/live",
    tag = "outbox",
    responses(
        (status = 200, body = OutboxEntry, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn live(State(shared): State<Arc<Shared>>) -> Response {
    let (entries, changes) = shared.outbox.watch();
    let message = |entry: &OutboxEntry| sse::event("message", entry);
    let now: Vec<_> = entries.iter().map(message).collect();
    let changes = BroadcastStream::new(changes).map(move |change| match change {
        Ok(Change::Entry(entry)) => message(&entry),
        Ok(Change::Removed(id)) => sse::event("removed", &json!({ "id": id })),
        Err(_) => sse::event("missed", &json!({})),
    });
    sse::answer(shared.until_stopped(stream::iter(now).chain(changes)))
}

pub(super) fn unknown(id: u64) -> Problem {
    let detail = format!("the outbox has no message {id}");
    let problem = Problem::new(
        "unknown_message",
        StatusCode::NOT_FOUND,
        ProblemClass::Usage,
        detail,
    );
    problem.hint("`nara-mesh outbox list` lists the messages (GET /v1/outbox)")
}

impl From<OutboxError> for Problem {
    fn from(error: OutboxError) -> Self {
        let (name, status, hint) = match &error {
            OutboxError::TooMany(_) => (
                "outbox_full",
                StatusCode::INSUFFICIENT_STORAGE,
                "withdraw messages (DELETE /v1/outbox/{id}), or wait until some are delivered",
            ),
            OutboxError::Store(DatabaseError::Full(_)) => (
                "disk_full",
                StatusCode::INSUFFICIENT_STORAGE,
                "free space on the disk of the data folder",
            ),
            _ => (
                "outbox",
                StatusCode::INTERNAL_SERVER_ERROR,
                "see the log of the nara",
            ),
        };
        let mut problem = Self::new(name, status, ProblemClass::Failed, &error).hint(hint);
        problem.causes = crate::problem::causes(&error);
        problem
    }
}
