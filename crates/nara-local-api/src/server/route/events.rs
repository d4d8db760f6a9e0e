use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, StatusCode};
use nara_mesh::ledger::{Arrival, Followed, Follower, Ledger, LedgerError, ReadLimit};
use nara_proto::event::{EventProblem, Service, SyncEvent};
use nara_proto::stream::ArrivalCursor;
use nara_proto::sync::{Cursor, MAX_EVENTS};
use nara_proto::time::{UnixMillis, UnixNanos};
use serde::Deserialize;
use utoipa::IntoParams;

use super::sse;
use crate::compose::complete;
use crate::model::{Event, EventPage, LedgerSummary, LiveEvent, ServiceSize};
use crate::server::extract::{Body, FilterParams, Query};
use crate::server::state::{Answer, Shared};
use crate::{Problem, ProblemClass};

/// The default number of events of an answer.
const PAGE: usize = 100;

/// The most bytes of the events of an answer.
const PAGE_BYTES: usize = 4 << 20;

/// Selects a page of the ledger.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageParams {
    /// Start of the page: `next` of the previous page. Without it, the oldest event.
    after: Option<String>,
    /// Only events from this Unix millisecond on.
    since_ms: Option<i64>,
    /// The newest events instead, the newest first.
    #[serde(default)]
    newest: bool,
    /// Number of events: 1 to 5000, by default 100.
    limit: Option<usize>,
}

/// Events of the ledger, oldest first
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "events",
    params(FilterParams, PageParams),
    responses((status = 200, body = EventPage), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn page(
    State(shared): State<Arc<Shared>>,
    Query(filter): Query<FilterParams>,
    Query(params): Query<PageParams>,
) -> Answer<EventPage> {
    let most = params.limit.unwrap_or(PAGE);
    if !(1..=MAX_EVENTS).contains(&most) {
        return Err(Problem::invalid(format!("limit: 1 to {MAX_EVENTS}, not {most}")));
    }
    let limit = ReadLimit::events(most).bytes(PAGE_BYTES);
    let ledger = shared.nara.ledger();
    let from = params.since_ms.map(|since| UnixMillis::new(since).to_nanos());
    if params.newest {
        if params.after.is_some() {
            return Err(Problem::invalid("after: the newest events have no pages"));
        }
        let mut events = ledger.recent(filter.filter(), limit).await?;
        events.retain(|checked| from.is_none_or(|from| checked.event.ts >= from));
        return Ok(Json(EventPage::of(&events, None)));
    }
    let after = match (&params.after, from) {
        (Some(after), _) => after
            .parse::<Cursor>()
            .map_err(|_| Problem::invalid(format!("after: {after:?} is not a cursor of this API")))?,
        // After all events before that time.
        (None, Some(from)) => Cursor::after_time(UnixNanos::new(from.get().saturating_sub(1))),
        (None, None) => Cursor::START,
    };
    let events = ledger.page(filter.filter(), after, limit).await?;
    let next = events.last().map(|last| Cursor::behind(&last.event));
    Ok(Json(EventPage::of(&events, next)))
}

/// The contents of the ledger, by service
///
/// Counting reads all events, so an answer may be outdated: by at most a hundred times the duration of the
/// count (`counted_at_ms`).
#[utoipa::path(
    get,
    path = "/v1/ledger",
    tag = "events",
    responses((status = 200, body = LedgerSummary), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn summary(State(shared): State<Arc<Shared>>) -> Answer<LedgerSummary> {
    let ledger = shared.nara.ledger().clone();
    let counted_at_ms = shared.nara.client().clock().now_millis().get();
    let state = (
        ledger.feed().epoch(),
        ledger.position().await?,
        ledger.count().await?,
    );
    let counting = async move {
        let mut summary = LedgerSummary {
            counted_at_ms,
            ..LedgerSummary::default()
        };
        for (service, size) in ledger.services().await? {
            let (events, bytes) = (size.events as u64, size.bytes as u64);
            summary.events += events;
            summary.bytes += bytes;
            summary.services.push(ServiceSize {
                service,
                events,
                bytes,
            });
        }
        Ok(summary)
    };
    shared.counted.of(state, counting).await.map(Json)
}

/// The start of a live stream.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LiveParams {
    /// Begin after this cursor of an earlier stream. The header `Last-Event-ID` is equivalent.
    after: Option<String>,
    /// Begin with events that arrived from this Unix millisecond on. By default with those that arrive from
    /// now on.
    since_ms: Option<i64>,
    /// Begin with the last arrivals, at most this many: 1 to 5000.
    last: Option<u32>,
}

/// Events as they arrive in the ledger, as server-sent events
///
/// `event` (`LiveEvent`) for each, `caught_up` once all stored ones were sent, `problem` at the end of a
/// failed stream.
#[utoipa::path(
    get,
    path = "/v1/events/live",
    tag = "events",
    params(FilterParams, LiveParams),
    responses(
        (status = 200, body = LiveEvent, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn live(
    State(shared): State<Arc<Shared>>,
    Query(filter): Query<FilterParams>,
    Query(params): Query<LiveParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let ledger = shared.nara.ledger().clone();
    let last = sse::last_event_id(&headers);
    let start = start(&*ledger, last.or(params.after.as_deref()), &params).await?;
    let follower = Follower::new(ledger, start, filter.filter());
    Ok(sse::answer(shared.until_stopped(followed(follower))))
}

/// Returns the position after which a stream begins.
async fn start(ledger: &dyn Ledger, after: Option<&str>, params: &LiveParams) -> Result<i64, Problem> {
    let epoch = ledger.feed().epoch();
    if let Some(last) = params.last
        && !(1..=MAX_EVENTS).contains(&(last as usize))
    {
        return Err(Problem::invalid(format!("last: 1 to {MAX_EVENTS}, not {last}")));
    }
    match (after, params.since_ms) {
        (Some(text), _) => {
            let cursor = cursor(text)?;
            if cursor.epoch == epoch {
                return Ok(cursor.seq);
            }
            let detail = "the cursor belongs to an earlier ledger of this nara";
            let problem = Problem::new("cursor_gone", StatusCode::GONE, ProblemClass::Failed, detail);
            Err(problem.hint("begin without a cursor, or with since_ms=0"))
        }
        (None, Some(since)) => Ok(ledger.position_before(UnixMillis::new(since).to_nanos()).await?),
        (None, None) => {
            let last = params.last.map_or(0, i64::from);
            Ok(ledger.position().await?.saturating_sub(last).max(0))
        }
    }
}

/// Parses the cursor of a stream.
pub(super) fn cursor(text: &str) -> Result<ArrivalCursor, Problem> {
    let cursor = text.parse();
    cursor.map_err(|_| Problem::invalid(format!("{text:?} is not a cursor of this API")))
}

/// Reads only as fast as the caller does, so a slow caller costs only its connection.
fn followed(follower: Follower) -> impl Stream<Item = axum::response::sse::Event> + Send {
    let batches = stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        let batch = match follower.next().await {
            Ok(Followed::Events(events)) => {
                let epoch = follower.cursor().epoch;
                let event = |arrival: &Arc<Arrival>| {
                    let cursor = ArrivalCursor::new(epoch, arrival.seq);
                    sse::event("event", &LiveEvent::arrived(arrival, cursor)).id(cursor.to_string())
                };
                events.iter().map(event).collect()
            }
            Ok(Followed::CaughtUp) => vec![sse::event("caught_up", &serde_json::json!({}))],
            Ok(_) => Vec::new(),
            Err(error) => return Some((vec![sse::failed(&error.into())], None)),
        };
        Some((batch, Some(follower)))
    });
    batches.flat_map(stream::iter)
}

/// Sign an event and store it, so that subscribers and gossip receive it
///
/// The event gets our id and signature if it has none, and the current time if it has none. Events that peers
/// would refuse are refused here too (`event_refused`), such as an event in the name of another nara or with
/// another key. An event that the ledger has no space for is not stored (`event_not_kept`, 507).
#[utoipa::path(
    post,
    path = "/v1/events",
    tag = "events",
    request_body = Event,
    responses((status = 200, body = Event), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn publish(State(shared): State<Arc<Shared>>, Body(event): Body<Event>) -> Answer<Event> {
    let local = shared.nara.local();
    let malformed =
        |reason: &dyn std::fmt::Display| Problem::invalid(format!("the event is malformed: {reason}"));
    let mut event = event.decode().map_err(|error| malformed(&error))?;
    if event.ts.get() == 0 {
        event.ts = shared.nara.client().clock().now_nanos();
    }
    let event = complete(event, local);
    event.validate().map_err(|error| malformed(&error))?;
    match shared.nara.publish_signed(event.clone()).await {
        Ok(event) => Ok(Json(Event::of(&event))),
        Err(LedgerError::Refused(problem)) => Err(refused(&event, problem, local.name().as_str())),
        Err(error) => Err(error.into()),
    }
}

/// Returns the invalid field and the fix.
fn refused(event: &SyncEvent, problem: EventProblem, own: &str) -> Problem {
    let is_ours = event.emitter == own;
    let (field, hint) = match (problem, event.service()) {
        (EventProblem::ForgedId, _) => ("id", "omit it".to_owned()),
        (EventProblem::BadSignature, Some(Service::HeyThere))
            if is_ours && event.embedded_key().is_some() =>
        {
            ("hey_there.PublicKey", "use the key of this nara".to_owned())
        }
        (EventProblem::BadSignature, Some(Service::Chau)) if is_ours && event.embedded_key().is_some() => {
            ("chau.PublicKey", "use the key of this nara".to_owned())
        }
        (EventProblem::BadSignature, Some(Service::Checkpoint)) => (
            "checkpoint",
            "publish it with the signatures of voters that are known here".to_owned(),
        ),
        (EventProblem::BadSignature, Some(Service::Succession)) => (
            "succession",
            "publish a statement about a key that is known here".to_owned(),
        ),
        (EventProblem::BadSignature, _) => ("sig", "omit it".to_owned()),
        (EventProblem::NotTheActor, _) if !is_ours => ("emitter", "omit it and `sig`".to_owned()),
        (EventProblem::NotTheActor, service) => {
            let field = match service {
                Some(Service::Social) => "social.actor",
                Some(Service::Ping) => "ping.observer",
                Some(Service::Observation) => "observation.observer",
                Some(Service::Seen) => "seen.observer",
                Some(Service::HeyThere) => "hey_there.From",
                Some(Service::Chau) => "chau.From",
                _ => "svc",
            };
            (field, format!("use the name of this nara, {own}"))
        }
        (EventProblem::Ambiguous(field) | EventProblem::NotAName(field), _) => {
            (field, "use a name without colons and white space".to_owned())
        }
        (EventProblem::Future, _) => ("ts", "omit it".to_owned()),
        _ => (&*event.svc, "correct it".to_owned()),
    };
    let (status, class) = (StatusCode::UNPROCESSABLE_ENTITY, ProblemClass::Usage);
    let detail = format!("{field}: every nara that gets this event would refuse it: {problem}");
    Problem::new("event_refused", status, class, detail).hint(hint)
}
