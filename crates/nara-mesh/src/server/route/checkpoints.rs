use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::Response;
use nara_proto::endpoint::{AllCheckpoints, Endpoint as _};
use nara_proto::peer::CheckpointsResponse;

use crate::ledger::ReadLimit;
use crate::server::answer::hold::Held;
use crate::server::answer::json::{Surplus, json_of_events};
use crate::server::answer::rejection::{Limit, Rejection};
use crate::server::auth::sender::PeerAddress;
use crate::server::limits::body_bytes::Source;
use crate::server::limits::quota::Exceeded;
use crate::server::route::state::Shared;

use crate::server::route::peer_query::query_value;

/// The number of checkpoints when the request does not give one.
const DEFAULT_LIMIT: i64 = 1_000;

/// The maximum number of checkpoints.
const MAX_LIMIT: i64 = 10_000;

/// `/api/checkpoints/all`, any method (docs/protocol/v1.md, section 7.9). Strangers may call it, so the memory of
/// concurrent answers is bounded, until their last byte is sent.
pub(super) async fn handle(
    State(shared): State<Arc<Shared>>,
    PeerAddress(address): PeerAddress,
    RawQuery(query): RawQuery,
) -> Result<Response, Rejection> {
    let source = address.ip().to_canonical();
    let place = shared
        .checkpoints
        .take(&source)
        .map_err(|exceeded| match exceeded {
            Exceeded::Rate { limit, retry_after } => Rejection::TooManyRequests {
                of: Limit::Checkpoints,
                limit,
                retry_after,
            },
            Exceeded::All | Exceeded::OfKey(_) => Rejection::Busy("answers with checkpoints"),
        })?;

    let number = |name| query_value(query.as_deref(), name)?.parse::<i64>().ok();
    let limit = match number("limit") {
        Some(limit @ 1..) => limit.min(MAX_LIMIT),
        _ => DEFAULT_LIMIT,
    };
    let offset = number("offset").unwrap_or(0).max(0);

    let work = answer(shared.clone(), Source::Address(source), limit, offset);
    let answer = shared.reads.run(Source::Address(source), work).await?;
    Ok(Held::until_sent(answer, place))
}

async fn answer(shared: Arc<Shared>, source: Source, limit: i64, offset: i64) -> Result<Response, Rejection> {
    let size = usize::try_from(limit).unwrap_or(0);
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    let page = ReadLimit::events(size).bytes(AllCheckpoints::MAX_RESPONSE);
    let (events, total) = shared.ledger.checkpoints(page, skip).await?;
    let total = i64::try_from(total).unwrap_or(i64::MAX);
    let server = shared.local.name().as_str().to_owned();
    let build = move |events: Vec<_>, _| {
        let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
        CheckpointsResponse {
            // Like v1 peers: no list if there are no checkpoints, an empty one behind the last.
            checkpoints: (total > 0).then_some(events),
            count,
            has_more: offset.saturating_add(count) < total,
            limit,
            offset,
            server: server.clone(),
            total,
        }
    };
    json_of_events(
        &shared.answer_bytes,
        source,
        events,
        AllCheckpoints::MAX_RESPONSE,
        Surplus::Back,
        build,
        |answer: CheckpointsResponse| answer.checkpoints,
    )
    .await
}
