use std::sync::Arc;

use axum::response::Response;
use nara_proto::endpoint::{Endpoint as _, EventsSync};
use nara_proto::event::SyncEvent;
use nara_proto::sync::{Cursor, EventFilter, SyncMode, SyncRequest};
use nara_proto::time::UnixNanos;

use crate::ledger::{Sample, select};
use crate::random::random;
use crate::server::answer::json::{Surplus, json_of_events};
use crate::server::answer::rejection::Rejection;
use crate::server::auth::sender::VerifiedSender;
use crate::server::limits::body_bytes::Source;
use crate::server::route::body::read_json;
use crate::server::route::samples::SampleKey;
use crate::server::route::state::Shared;
use crate::server::route::way::Asked;

/// `POST /events/sync` (docs/protocol/v1.md, section 7.3).
pub(super) async fn handle(asked: Asked) -> Result<Response, Rejection> {
    let Asked {
        shared, sender, body, ..
    } = asked;
    let request: SyncRequest = read_json(body, EventsSync::MAX_REQUEST, &shared.limits).await?;
    if request.from.is_empty() {
        return Err(Rejection::FromRequired);
    }
    sender.must_be("from", &request.from)?;

    let filter = request.filter();
    let mode = request.mode();
    let source = Source::Peer(*sender.key());
    let work = answer(shared.clone(), sender, source, filter, mode);
    shared.reads.run(source, work).await
}

async fn answer(
    shared: Arc<Shared>,
    sender: VerifiedSender,
    source: Source,
    filter: EventFilter,
    mode: SyncMode,
) -> Result<Response, Rejection> {
    let total = match mode {
        SyncMode::Page { lossless: true, .. } if filter.is_empty() => shared.ledger.count().await?,
        _ => 0,
    };
    let Selected { events, more } = select_for(&shared, filter, &mode).await?;

    let (local, clock) = (shared.local.clone(), shared.clock.clone());
    let asked = mode.clone();
    let build = move |mut events: Vec<SyncEvent>, cut: bool| {
        if cut && matches!(asked, SyncMode::Page { lossless: false, .. }) {
            end_before_equal_times(&mut events, None);
        }
        let next = match &asked {
            SyncMode::Page { size, lossless, .. } if cut || more || events.len() == *size => {
                events.last().map(|last| (Cursor::behind(last), *lossless))
            }
            _ => None,
        };
        let mut response = sender.answer(&local, events, clock.now_seconds());
        response.total = total as u64;
        if let Some((behind, lossless)) = next {
            response.next_cursor = behind.ts().to_string();
            if lossless {
                response.next_after = behind.to_string();
            }
        }
        response
    };
    // Only in legacy mode the newest events are at the back; a page must not have a gap at its front.
    let surplus = match mode {
        SyncMode::Legacy { .. } => Surplus::Front,
        _ => Surplus::Back,
    };
    json_of_events(
        &shared.answer_bytes,
        source,
        events,
        EventsSync::MAX_RESPONSE,
        surplus,
        build,
        |response| response.events,
    )
    .await
}

/// The number of bytes of events that are read: more than fits, so that truncation is detected when the answer is
/// built.
const READ_BYTES: usize = 2 * EventsSync::MAX_RESPONSE;

/// The selection of a request.
struct Selected {
    events: Vec<SyncEvent>,
    /// Whether more events follow the last one.
    more: bool,
}

async fn select_for(shared: &Shared, filter: EventFilter, mode: &SyncMode) -> Result<Selected, Rejection> {
    let ledger = &*shared.ledger;
    let sample = |size| Sample {
        size,
        bytes: READ_BYTES,
        responder: shared.local.name().as_str().to_owned(),
        now: shared.clock.now_nanos(),
        seed: u64::from_le_bytes(random()),
    };
    match mode {
        // The cursor of a v1 peer is a time: next it asks for events later than the last one of this page.
        SyncMode::Page {
            after,
            size,
            lossless: false,
        } => {
            let wanted = SyncMode::Page {
                after: after.clone(),
                size: size.saturating_add(1),
                lossless: false,
            };
            let mut events = select(ledger, filter, &wanted, READ_BYTES, sample).await?;
            let next = events.get(*size).map(|next| next.ts);
            events.truncate(*size);
            if let Some(next) = next {
                end_before_equal_times(&mut events, Some(next));
            }
            Ok(Selected {
                events,
                more: next.is_some(),
            })
        }
        SyncMode::Sample { size } => {
            let key = SampleKey {
                filter: filter.clone(),
                size: *size,
                position: ledger.position().await?,
            };
            let drawn = shared
                .samples
                .get(key, select(ledger, filter, mode, READ_BYTES, sample))
                .await?;
            Ok(Selected {
                events: drawn.to_vec(),
                more: false,
            })
        }
        _ => Ok(Selected {
            events: select(ledger, filter, mode, READ_BYTES, sample).await?,
            more: false,
        }),
    }
}

/// Ends a page before a group of events with equal times, if the group may continue behind it: with the event at
/// `next`, if known. A group that is larger than the page stays: without a cursor inside it, it cannot be paged.
fn end_before_equal_times(events: &mut Vec<SyncEvent>, next: Option<UnixNanos>) {
    let Some(last) = events.last().map(|last| last.ts) else {
        return;
    };
    if next.is_some_and(|next| next != last) {
        return;
    }
    let group = events.partition_point(|event| event.ts < last);
    if group > 0 {
        events.truncate(group);
    }
}
