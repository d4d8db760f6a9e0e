use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, header};
use nara_proto::endpoint::{Endpoint as _, EventsReconcile};
use nara_proto::reconcile::{Scope, respond};

use crate::ledger::LedgerError;
use crate::offload::on_blocking_thread;
use crate::server::answer::rejection::Rejection;
use crate::server::auth::sender::VerifiedSender;
use crate::server::limits::body_bytes::Source;
use crate::server::route::body::read;
use crate::server::route::state::Shared;
use crate::server::route::way::Asked;

/// `POST /events/reconcile`: one round of a reconciliation. It is stateless.
pub(super) async fn handle(asked: Asked) -> Result<Response, Rejection> {
    let Asked {
        shared,
        sender,
        head,
        body,
        ..
    } = asked;
    let scope = Scope::from_query(head.uri.query().unwrap_or_default())?;
    let frame = read(body, EventsReconcile::MAX_REQUEST, &shared.limits).await?;
    // Each may hold a copy of the items of its scope.
    let source = Source::Peer(*sender.key());
    let work = answer(shared.clone(), sender, scope, frame);
    shared.reads.run(source, work).await
}

async fn answer(
    shared: Arc<Shared>,
    sender: VerifiedSender,
    scope: Scope,
    frame: Bytes,
) -> Result<Response, Rejection> {
    let set = shared.ledger.items(scope).await?;
    // A range is summed up item by item, which takes milliseconds for a large ledger. Fails only when the runtime shuts
    // down.
    let answer = on_blocking_thread(move || respond(set, &frame))
        .await
        .map_err(|_| LedgerError::Closed)?;
    let answer = answer.inspect_err(|error| {
        tracing::info!(sender = %sender.name(), address = %sender.address(), %error, "reconciliation refused");
    })?;
    let content_type = HeaderValue::from_static(EventsReconcile::CONTENT_TYPE);
    Ok(([(header::CONTENT_TYPE, content_type)], answer).into_response())
}
