use std::sync::Arc;

use axum::response::Response;
use nara_proto::endpoint::{Endpoint as _, GossipZine};
use nara_proto::zine::Zine;

use crate::defaults;
use crate::ledger::ReadLimit;
use crate::seldom::warn_seldom;
use crate::server::answer::json::{Surplus, json_of_events};
use crate::server::answer::rejection::Rejection;
use crate::server::limits::body_bytes::Source;
use crate::server::route::body::read_json;
use crate::server::route::ingest::ingest;
use crate::server::route::state::Shared;
use crate::server::route::way::Asked;

/// `POST /gossip/zine` (docs/protocol/v1.md, section 7.4).
pub(super) async fn handle(asked: Asked) -> Result<Response, Rejection> {
    let Asked {
        shared, sender, body, ..
    } = asked;
    let zine: Zine = read_json(body, GossipZine::MAX_REQUEST, &shared.limits).await?;
    if zine.from.is_empty() {
        return Err(Rejection::FromRequired);
    }
    sender.must_be("from", &zine.from)?;
    if zine.verify(sender.key()).is_err() {
        warn_seldom!(sender = %sender.name(), address = %sender.address(), "zine not signed by its sender");
        return Err(Rejection::InvalidSignature);
    }

    let ingested = ingest(&shared, zine.events.unwrap_or_default(), Some(sender.name())).await?;
    tracing::debug!(
        sender = %sender.name(), accepted = ingested.accepted.len(), stored = ingested.stored,
        warnings = ingested.warnings, "zine"
    );
    shared.handler.on_zine(&sender, &ingested.accepted);

    let source = Source::Peer(*sender.key());
    shared.reads.run(source, answer(shared.clone(), source)).await
}

/// Returns an answer with the recent events.
async fn answer(shared: Arc<Shared>, source: Source) -> Result<Response, Rejection> {
    let since = shared.clock.now_nanos().saturating_sub(defaults::ZINE_WINDOW);
    let limit = ReadLimit::events(shared.limits.zine_events).bytes(GossipZine::MAX_RESPONSE);
    let events = shared.ledger.since(since, limit).await?;
    let (local, clock) = (shared.local.clone(), shared.clock.clone());
    let build = move |events, _| {
        Zine::signed(
            local.name().as_str(),
            clock.now_seconds(),
            events,
            local.keypair(),
        )
    };
    json_of_events(
        &shared.answer_bytes,
        source,
        events,
        GossipZine::MAX_RESPONSE,
        Surplus::Front,
        build,
        |zine: Zine| zine.events,
    )
    .await
}
