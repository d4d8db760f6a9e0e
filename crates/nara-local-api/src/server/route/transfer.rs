//! Fetches events of peers into the ledger, compares ledgers, and streams events of peers.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event;
use axum::{Extension, Json};
use futures_util::FutureExt as _;
use futures_util::{Stream, StreamExt as _, stream};
use http::{HeaderMap, StatusCode};
use nara_mesh::client::{StreamState, SubscribeOptions, SyncError, SyncOptions, SyncProgress};
use nara_mesh::ledger::Ledger;
use nara_proto::event::Service;
use nara_proto::reconcile::Scope;
use nara_proto::sync::{MAX_EVENTS, SyncRequest};
use nara_proto::time::{UnixMillis, UnixSeconds};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_util::task::AbortOnDropHandle;
use utoipa::{IntoParams, ToSchema};

use super::events::cursor;
use super::sse;
use crate::model::{
    Checkpoints, Counts, LiveEvent, Progress, Reconciled, StreamFault, StreamStatus, Synced, TransferKind,
    trust_word,
};
use crate::server::extract::{CallParams, FilterParams, Path, Query, list};
use crate::server::rights::Caller;
use crate::server::state::{Answer, Shared};
use crate::server::transfers::{LONGEST, Of, Running};
use crate::{Problem, ProblemClass};

/// Capacity of the queue of progress reports.
const WAITING: usize = 4;

/// Selects the events to fetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum SyncMode {
    /// All events, oldest first, page by page.
    #[default]
    Page,
    /// The newest events, one answer.
    Recent,
    /// A random sample that favours critical and young events, one answer.
    Sample,
    /// What v1 peers request that support no modes, one answer.
    Legacy,
}

/// How to sync.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SyncParams {
    /// Which events.
    #[serde(default)]
    #[param(inline)]
    mode: SyncMode,
    /// Events per page, or per answer: 1 to 5000, by default 5000.
    size: Option<usize>,
    /// Continue where the last sync of this peer ended (mode `page`).
    #[serde(default)]
    resume: bool,
}

/// Fetch and verify events of a peer into the ledger, with progress as server-sent events
///
/// `progress` (`Progress`) meanwhile, then `done` (`Synced`). A caller that disconnects cancels the sync;
/// received events are stored.
#[utoipa::path(
    post,
    path = "/v1/peers/{peer}/sync",
    tag = "events",
    params(("peer" = String, Path, description = "Its name, id or address"), FilterParams, SyncParams, CallParams),
    responses(
        (status = 200, body = Synced, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn sync(
    Extension(caller): Extension<Caller>,
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(filter): Query<FilterParams>,
    Query(params): Query<SyncParams>,
    Query(call): Query<CallParams>,
) -> Result<Response, Problem> {
    let handle = shared.peer(&peer, call.timeout())?;
    let size = params.size.unwrap_or(MAX_EVENTS);
    if !(1..=MAX_EVENTS).contains(&size) {
        return Err(Problem::invalid(format!("size: 1 to {MAX_EVENTS}, not {size}")));
    }
    let ledger = shared.nara.ledger().clone();
    let begun = Instant::now();
    let elapsed = move || u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    if params.mode == SyncMode::Page {
        let options = SyncOptions::default().page_size(size).resume(params.resume);
        let (options, progress) = options.watched();
        let filter = filter.filter();
        let of = Of {
            kind: TransferKind::Sync,
            peer: &peer,
            caller: &caller,
        };
        return transfer(&shared, of, progress, |_| async move {
            let (report, problem) = match handle.sync_into(&*ledger, filter, options).await {
                Ok(report) => (report, None),
                Err(interrupted) => (interrupted.report, Some(interrupted.error.into())),
            };
            Ok(Synced {
                counts: Counts::of(&report.progress, &report.refused),
                answers: report.progress.pages,
                resumed: report.resumed.map(|cursor| cursor.to_string()),
                elapsed_us: elapsed(),
                problem,
            })
        });
    }
    let request = match params.mode {
        SyncMode::Recent => SyncRequest::recent(size),
        SyncMode::Sample => SyncRequest::sample(size),
        SyncMode::Page | SyncMode::Legacy => SyncRequest {
            max_events: i64::try_from(size).unwrap_or(i64::MAX),
            ..SyncRequest::default()
        },
    };
    let filter = filter.filter();
    let request = request.services(filter.services).subjects(filter.subjects);
    let (_, progress) = watch::channel(SyncProgress::default());
    let of = Of {
        kind: TransferKind::Sync,
        peer: &peer,
        caller: &caller,
    };
    transfer(&shared, of, progress, |_| async move {
        let answer = handle.fetch_sync_events(request).await?.into_inner();
        let teller = handle.known().and_then(|peer| peer.info().name);
        let counts = Counts::of_answer(&answer.events);
        let outcomes = ledger.insert(answer.events.accepted, teller).await?;
        Ok(Synced {
            counts: counts.with_outcomes(&outcomes),
            answers: 1,
            resumed: None,
            elapsed_us: elapsed(),
            problem: None,
        })
    })
}

/// The scope of a comparison.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ScopeParams {
    /// Only events of these services, separated by commas.
    #[serde(default)]
    services: String,
    /// Only events from this Unix second on.
    from_s: Option<i64>,
    /// Only events before this Unix second.
    until_s: Option<i64>,
}

impl ScopeParams {
    fn scope(&self) -> Result<Scope, Problem> {
        let mut scope = Scope::all();
        for name in list(&self.services) {
            let service = Service::from_wire(&name).ok_or_else(|| {
                let known: Vec<_> = Service::ALL.iter().map(|service| service.as_str()).collect();
                Problem::invalid(format!("{name} is not a service"))
                    .hint(format!("one of: {}", known.join(", ")))
            })?;
            scope.services.insert(service);
        }
        scope.from = self.from_s.map(UnixSeconds::new);
        scope.to = self.until_s.map(UnixSeconds::new);
        Ok(scope)
    }
}

/// The mode of a reconciliation.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ReconcileParams {
    /// Send the peer the events that it lacks.
    #[serde(default)]
    push: bool,
}

/// Compare the ledger with a peer and fetch missing events, with progress as server-sent events
///
/// `progress` (`Progress`) meanwhile, then `done` (`Reconciled`) or `problem`. A caller that disconnects
/// cancels it.
#[utoipa::path(
    post,
    path = "/v1/peers/{peer}/reconcile",
    tag = "events",
    params(("peer" = String, Path, description = "Its name, id or address"), ScopeParams, ReconcileParams, CallParams),
    responses(
        (status = 200, body = Reconciled, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn reconcile(
    Extension(caller): Extension<Caller>,
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(scope): Query<ScopeParams>,
    Query(params): Query<ReconcileParams>,
    Query(call): Query<CallParams>,
) -> Result<Response, Problem> {
    let handle = shared.peer(&peer, call.timeout())?;
    let scope = scope.scope()?;
    let ledger = shared.nara.ledger().clone();
    let (options, progress) = SyncOptions::default().push(params.push).watched();
    let begun = Instant::now();
    let of = Of {
        kind: TransferKind::Reconcile,
        peer: &peer,
        caller: &caller,
    };
    transfer(&shared, of, progress, |_| async move {
        let report = handle.reconcile(&*ledger, scope, options).await?;
        Ok(Reconciled::of(&report, begun.elapsed()))
    })
}

/// Whether the ledger and a peer have the same events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct InSync {
    /// Whether they are equal.
    in_sync: bool,
    /// Events of the ledger.
    events_here: usize,
    /// Bytes sent to compare.
    bytes_sent: u64,
    /// Bytes received to compare.
    bytes_received: u64,
}

/// Check whether the ledger and a peer have the same events
#[utoipa::path(
    get,
    path = "/v1/peers/{peer}/in-sync",
    tag = "events",
    params(("peer" = String, Path, description = "Its name, id or address"), ScopeParams, CallParams),
    responses((status = 200, body = InSync), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub(super) async fn check(
    Extension(caller): Extension<Caller>,
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(scope): Query<ScopeParams>,
    Query(call): Query<CallParams>,
) -> Answer<InSync> {
    let handle = shared.peer(&peer, call.timeout())?;
    let scope = scope.scope()?;
    let (_, progress) = watch::channel(SyncProgress::default());
    let of = Of {
        kind: TransferKind::Compare,
        peer: &peer,
        caller: &caller,
    };
    let running = begin(&shared, of, progress)?;
    let ledger: &dyn Ledger = &**shared.nara.ledger();
    let checked = tokio::select! {
        checked = handle.check_in_sync(ledger, scope) => checked,
        () = running.cancelled() => return Err(cancelled()),
    };
    let check = checked.map_err(|error| match error {
        SyncError::Peer(error) if error.status() == Some(StatusCode::NOT_FOUND) => {
            Problem::from(error).hint("the peer does not support reconciliation: sync to fetch its events")
        }
        error => error.into(),
    })?;
    Ok(Json(InSync {
        in_sync: check.in_sync,
        events_here: check.events_here,
        bytes_sent: check.bytes_sent,
        bytes_received: check.bytes_received,
    }))
}

/// The checkpoints of a peer, which several naras agreed on, as server-sent events
///
/// `event` (`LiveEvent`) for each, then `done` (`Checkpoints`) or `problem`. None of them is stored.
#[utoipa::path(
    get,
    path = "/v1/peers/{peer}/checkpoints",
    tag = "events",
    params(("peer" = String, Path, description = "Its name, id or address"), CallParams),
    responses(
        (status = 200, body = Checkpoints, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn checkpoints(
    Extension(caller): Extension<Caller>,
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(call): Query<CallParams>,
) -> Result<Response, Problem> {
    let handle = shared.peer(&peer, call.timeout())?;
    let (_, progress) = watch::channel(SyncProgress::default());
    let of = Of {
        kind: TransferKind::Checkpoints,
        peer: &peer,
        caller: &caller,
    };
    transfer(&shared, of, progress, |told| async move {
        let fetched = handle.fetch_checkpoints().await?.into_inner();
        let done = Checkpoints {
            counts: Counts::of_answer(&fetched.events),
            more: fetched.more,
        };
        // A slow caller keeps its permit, because the remaining events are in memory.
        for checked in fetched.events.accepted {
            let event = LiveEvent::told(&checked.event, trust_word(checked.trust));
            // The caller may have disconnected.
            let _ = told.send(sse::event("event", &event)).await;
        }
        Ok(done)
    })
}

/// Lists a transfer until the guard is dropped.
fn begin(shared: &Shared, of: Of<'_>, progress: watch::Receiver<SyncProgress>) -> Result<Running, Problem> {
    let now = shared.nara.client().clock().now_millis();
    shared.transfers.begin(of, now, progress)
}

/// Creates an answer that reports a transfer, which ends with the answer. `work` may send more than the final
/// event.
fn transfer<T: Serialize + Send + 'static, W>(
    shared: &Shared,
    of: Of<'_>,
    mut progress: watch::Receiver<SyncProgress>,
    work: impl FnOnce(mpsc::Sender<Event>) -> W,
) -> Result<Response, Problem>
where
    W: Future<Output = Result<T, Problem>> + Send + 'static,
{
    let (reports, waiting) = mpsc::channel(WAITING);
    let running = begin(shared, of, progress.clone())?;
    let transfer = work(reports.clone());
    let task = async move {
        let reporting = reports.clone();
        let report = async {
            while progress.changed().await.is_ok() {
                let now = Progress::of(&progress.borrow_and_update());
                // A slow caller misses some reports.
                let _ = reporting.try_send(sse::event("progress", &now));
            }
            std::future::pending::<()>().await;
        };
        let end = tokio::select! {
            ended = transfer => match ended {
                Ok(done) => sse::event("done", &done),
                Err(problem) => sse::failed(&problem),
            },
            () = running.cancelled() => sse::failed(&cancelled()),
            () = tokio::time::sleep(LONGEST) => sse::failed(&too_long()),
            () = report => return,
        };
        drop(running);
        // The caller may have disconnected.
        let _ = reports.send(end).await;
    };
    let task = tokio::spawn(task.boxed());
    let events = Held {
        events: ReceiverStream::new(waiting),
        _task: AbortOnDropHandle::new(task),
    };
    Ok(sse::answer(shared.until_stopped(events)))
}

fn cancelled() -> Problem {
    let detail = "the transfer was cancelled; events received before are stored";
    Problem::new("cancelled", StatusCode::CONFLICT, ProblemClass::Failed, detail)
}

fn too_long() -> Problem {
    let hours = LONGEST.as_secs() / 3600;
    let detail = format!("the transfer was cancelled after {hours} hours; events received before are stored");
    let (status, class) = (StatusCode::GATEWAY_TIMEOUT, ProblemClass::Failed);
    Problem::new("transfer_timeout", status, class, detail)
        .hint("sync again with `resume` to continue where this one ended")
}

/// A stream that owns the task behind it.
struct Held<S> {
    events: S,
    _task: AbortOnDropHandle<()>,
}

impl<S: Stream + Unpin> Stream for Held<S> {
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.events.poll_next_unpin(cx)
    }
}

/// The start of a stream of a peer.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SinceParams {
    /// Begin after this cursor of an earlier stream of the peer. The header `Last-Event-ID` is equivalent.
    after: Option<String>,
    /// Begin with events that arrived at the peer from this Unix millisecond on, also if its ledger is not
    /// the one of the cursor. By default with those that arrive from now on.
    since_ms: Option<i64>,
}

/// Events of a peer as they arrive there, verified, as server-sent events
///
/// `event` (`LiveEvent`; its id is its cursor), `fault` (`StreamFault`) and `state` (`StreamStatus`; before
/// the first event its id is the cursor at which the stream begins). A broken connection to the peer is
/// reopened; the stream ends with a final fault.
#[utoipa::path(
    get,
    path = "/v1/peers/{peer}/events/live",
    tag = "events",
    params(("peer" = String, Path, description = "Its name, id or address"), FilterParams, SinceParams, CallParams),
    responses(
        (status = 200, body = LiveEvent, content_type = "text/event-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")
    )
)]
pub(super) async fn live(
    State(shared): State<Arc<Shared>>,
    Path(peer): Path<String>,
    Query(filter): Query<FilterParams>,
    Query(params): Query<SinceParams>,
    Query(call): Query<CallParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let handle = shared.peer(&peer, call.timeout())?;
    let mut options = SubscribeOptions::default().filter(filter.filter());
    if let Some(after) = sse::last_event_id(&headers).or(params.after.as_deref()) {
        options = options.resume(cursor(after)?);
    }
    if let Some(since) = params.since_ms {
        options = options.since(UnixMillis::new(since).to_nanos());
    }
    let subscription = handle.subscribe(options);
    let start = subscription.start();
    let has_told = Arc::new(AtomicBool::new(false));
    let told = has_told.clone();
    let states = WatchStream::new(subscription.state())
        .filter(|state| std::future::ready(!matches!(state, StreamState::Connecting | StreamState::Ended)))
        .map(move |state| {
            let state = state.to_string();
            let event = sse::event("state", &StreamStatus { state });
            match *start.borrow() {
                Some(start) if !told.load(Ordering::Relaxed) => event.id(start.to_string()),
                _ => event,
            }
        });
    let events = subscription.map(move |item| match item {
        Ok(verified) => {
            has_told.store(true, Ordering::Relaxed);
            let live = LiveEvent::verified(&verified);
            let event = sse::event("event", &live);
            match live.cursor {
                Some(cursor) => event.id(cursor),
                None => event,
            }
        }
        Err(error) => sse::event("fault", &StreamFault::of(&error)),
    });
    // The states are sent for as long as the events are.
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    let events = events.chain(stream::once(async move { drop(ended) }).filter_map(async |()| None::<Event>));
    let both = stream::select(events, states.take_until(end));
    Ok(sse::answer(shared.until_stopped(both)))
}
