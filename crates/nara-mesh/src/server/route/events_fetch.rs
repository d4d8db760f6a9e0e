use std::sync::Arc;

use axum::response::Response;
use nara_proto::endpoint::{Endpoint as _, EventsFetch};
use nara_proto::reconcile::{FetchRequest, ItemId};
use nara_proto::sync::MAX_EVENTS;

use crate::server::answer::json::{Surplus, json_of_events};
use crate::server::answer::rejection::Rejection;
use crate::server::auth::sender::VerifiedSender;
use crate::server::limits::body_bytes::Source;
use crate::server::route::body::read_json;
use crate::server::route::state::Shared;
use crate::server::route::way::Asked;

/// `POST /events/fetch`: events by id, as many as fit into an answer.
pub(super) async fn handle(asked: Asked) -> Result<Response, Rejection> {
    let Asked {
        shared, sender, body, ..
    } = asked;
    let request: FetchRequest = read_json(body, EventsFetch::MAX_REQUEST, &shared.limits).await?;
    if request.from.is_empty() {
        return Err(Rejection::FromRequired);
    }
    sender.must_be("from", &request.from)?;
    let ids = request.ids.unwrap_or_default();
    if ids.len() > MAX_EVENTS {
        return Err(Rejection::TooManyIds);
    }
    let source = Source::Peer(*sender.key());
    let work = answer(shared.clone(), sender, ids);
    shared.reads.run(source, work).await
}

async fn answer(
    shared: Arc<Shared>,
    sender: VerifiedSender,
    ids: Vec<String>,
) -> Result<Response, Rejection> {
    let source = Source::Peer(*sender.key());
    // Only verified events have ids of this form.
    let items = ids.iter().filter_map(|id| ItemId::of_event(id)).collect();
    let events = shared.ledger.by_ids(items, EventsFetch::MAX_RESPONSE).await?;
    let (local, clock) = (shared.local.clone(), shared.clock.clone());
    let build = move |events, _| sender.answer(&local, events, clock.now_seconds());
    json_of_events(
        &shared.answer_bytes,
        source,
        events,
        EventsFetch::MAX_RESPONSE,
        Surplus::Back,
        build,
        |response| response.events,
    )
    .await
}
