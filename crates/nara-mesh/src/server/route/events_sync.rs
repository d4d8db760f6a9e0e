use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use nara_proto::endpoint::{Endpoint as _, EventsSync};
use nara_proto::sync::{Cursor, SyncMode, SyncRequest};

use crate::ledger::{Sample, select};
use crate::random::random;
use crate::server::answer::json::{Surplus, json_of_events};
use crate::server::answer::rejection::Rejection;
use crate::server::auth::sender::VerifiedSender;
use crate::server::route::body::read_json;
use crate::server::route::state::Shared;

/// `POST /events/sync` (docs/protocol/v1.md, section 7.3).
pub(super) async fn handle(
    State(shared): State<Arc<Shared>>,
    sender: VerifiedSender,
    body: Body,
) -> Result<Response, Rejection> {
    let request: SyncRequest = read_json(body, EventsSync::MAX_REQUEST, &shared.limits).await?;
    if request.from.is_empty() {
        return Err(Rejection::FromRequired);
    }
    sender.must_be("from", &request.from)?;

    let filter = request.filter();
    let mode = request.mode();
    let ledger = &shared.ledger;
    let total = match mode {
        SyncMode::Page { lossless: true, .. } if filter.is_empty() => ledger.count().await?,
        _ => 0,
    };
    let sample = |size| Sample {
        size,
        bytes: 2 * EventsSync::MAX_RESPONSE,
        responder: shared.local.name().to_string(),
        now: shared.clock.now_nanos(),
        seed: u64::from_le_bytes(random()),
    };
    // More than fits, so that a cut shows when the answer is made.
    let events = select(&**ledger, filter, &mode, 2 * EventsSync::MAX_RESPONSE, sample).await?;

    let build = |events: Vec<_>, cut| {
        let now = shared.clock.now_seconds();
        let next = match &mode {
            SyncMode::Page { size, lossless, .. } if cut || events.len() == *size => {
                events.last().map(|last| (Cursor::behind(last), *lossless))
            }
            _ => None,
        };
        let mut response = sender.answer(&shared.local, events, now);
        response.total = total as u64;
        if let Some((behind, lossless)) = next {
            response.next_cursor = behind.ts().to_string();
            if lossless {
                response.next_after = behind.to_string();
            }
        }
        response
    };
    // The newest events are at the back in legacy mode only; a page must not have a gap at its front.
    let surplus = match mode {
        SyncMode::Legacy { .. } => Surplus::Front,
        _ => Surplus::Back,
    };
    Ok(json_of_events(
        events,
        EventsSync::MAX_RESPONSE,
        surplus,
        build,
        |response| response.events,
    ))
}
