//! Reconciliation: fetches only missing events, and checks whether any are missing.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use futures_util::stream::StreamExt as _;
use http::StatusCode;
use nara_proto::endpoint::{Endpoint as _, EventsFetch, EventsReconcile, ReconcileRequest};
use nara_proto::event::SyncEvent;
use nara_proto::reconcile::{FetchRequest, ItemId, ReconcileError, Reconciler, Scope};
use nara_proto::sync::{Cursor, EventFilter, MAX_EVENTS, Pager};
use nara_proto::time::{UnixNanos, UnixSeconds};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use super::bulk::{Pace, Storing, SyncError, SyncOptions, SyncProgress, SyncReport};
use super::error::{ClientError, ClientErrorKind, Problem};
use super::events::PagesByTime;
use super::handle::PeerHandle;
use super::pages::{FetchedPage, PageSize, PageSource, pages_ahead};
use crate::ledger::Ledger;
use crate::offload::offload;
use crate::registry::{PeerEvent, learned};

/// Maximum number of events requested at once.
const FETCH: usize = 2000;

/// Maximum number of events pushed at once.
const PUSH: usize = 500;

impl PeerHandle {
    /// Finds the events of a scope that are missing here, fetches only those, verifies and stores them.
    ///
    /// Events that were rejected once are not fetched from the same peer again. If the peer lacks this endpoint,
    /// all events of the scope are fetched page by page.
    ///
    /// # Errors
    /// [`SyncError`]. Events received before are stored; the next reconciliation does not fetch them again.
    pub async fn reconcile<L: Ledger + ?Sized>(
        &self,
        ledger: &L,
        scope: Scope,
        options: SyncOptions,
    ) -> Result<SyncReport, SyncError> {
        let mut report = SyncReport::default();
        let compared = self.compare(ledger, &scope, &mut report, usize::MAX).await;
        let reconciler = match compared {
            Err(SyncError::Peer(error)) if error.status() == Some(StatusCode::NOT_FOUND) => {
                return self.page_through(ledger, &scope, options, report).await;
            }
            compared => compared?,
        };
        report.complete = reconciler.is_complete();
        report.in_sync = reconciler.is_in_sync();
        report.missing_here = reconciler.missing_here().len();
        report.missing_there = reconciler.missing_there().len();

        let mut missing = reconciler.missing_here().clone();
        let place = self.cursor_place(&EventFilter::default());
        let rejected = ledger
            .rejected(place.clone(), missing.iter().copied().collect())
            .await?;
        report.rejected_before = rejected.len();
        for item in rejected {
            missing.remove(&item);
        }
        self.fetch_missing(
            ledger,
            place,
            missing.into_iter().collect(),
            (options.progress, options.pace),
            &mut report,
        )
        .await?;
        if options.push {
            let items: Vec<_> = reconciler.missing_there().iter().copied().collect();
            for items in items.chunks(PUSH) {
                let events = ledger.by_ids(items.to_vec(), EventsFetch::MAX_RESPONSE).await?;
                report.pushed += events.len();
                let (answer, verification) = self.exchange_zine(events).await?.into_parts();
                ledger
                    .insert(answer.events.accepted, verification.responder)
                    .await?;
            }
        }
        Ok(report)
    }

    /// Checks whether this nara and the peer have the same events in a scope: one round, a few hundred bytes.
    ///
    /// Whole ledgers are rarely in sync, because each applies its own retention; a scope of services that
    /// everyone keeps, such as checkpoints, can be.
    ///
    /// # Errors
    /// [`SyncError`]; with the [status](ClientError::status) 404 if the peer lacks the endpoint.
    pub async fn check_in_sync<L: Ledger + ?Sized>(
        &self,
        ledger: &L,
        scope: Scope,
    ) -> Result<SyncReport, SyncError> {
        let mut report = SyncReport::default();
        let events_here = ledger.items(scope.clone()).await?.len();
        let reconciler = self.compare(ledger, &scope, &mut report, 1).await?;
        report.in_sync = reconciler.is_in_sync();
        report.events_here = events_here;
        Ok(report)
    }

    /// Compares until the difference is known, for at most `max_rounds` rounds.
    async fn compare<L: Ledger + ?Sized>(
        &self,
        ledger: &L,
        scope: &Scope,
        report: &mut SyncReport,
        max_rounds: usize,
    ) -> Result<Reconciler, SyncError> {
        let set = ledger.items(scope.clone()).await?;
        let fail = |error| self.fail(Problem::Reconcile(error));
        // Fingerprinting a large set takes milliseconds.
        let (mut reconciler, first) = offload(true, move || Reconciler::begin(set))
            .await
            .map_err(fail)?;
        let mut next = Some(first);
        while let Some(frame) = next
            && report.rounds < max_rounds
        {
            report.bytes_sent += frame.len() as u64;
            let request = ReconcileRequest {
                scope: scope.clone(),
                frame,
            };
            let answer = self
                .exchange
                .call_for_events::<EventsReconcile>(&self.peer, &request, self.call_timeout)
                .await?;
            report.rounds += 1;
            report.bytes_received += answer.arrival.bytes as u64;
            let taken;
            (reconciler, taken) = offload(true, move || {
                let taken = reconciler.take(&answer.value);
                (reconciler, taken)
            })
            .await;
            next = taken.map_err(|error| ClientError::new(&answer.route, Problem::Reconcile(error)))?;
        }
        Ok(reconciler)
    }

    async fn fetch_missing<L: Ledger + ?Sized>(
        &self,
        ledger: &L,
        place: String,
        missing: VecDeque<ItemId>,
        (progress, pace): (Option<watch::Sender<SyncProgress>>, Pace),
        report: &mut SyncReport,
    ) -> Result<(), SyncError> {
        let asked = missing.len();
        let mut changes = self.exchange.registry.subscribe();
        let mut storing = Storing::new(ledger, progress, pace);
        storing.dropped = Some(Vec::new());
        let source = ById {
            peer: self.clone(),
            requests_left: missing.len().div_ceil(FETCH) * 2 + 16,
            size: PageSize::new(FETCH, self.call_timeout),
            missing,
        };
        let ended = storing
            .store_all(pages_ahead(source, self.page_checker()), None)
            .await;
        let mut dropped = storing.dropped.take().unwrap_or_default();
        // A rejection that awaits a key learned meanwhile would never be cleared, so it is not recorded.
        let learned = learned_meanwhile(&mut changes);
        dropped.retain(|(_, awaits)| match (awaits, &learned) {
            (Some(awaits), Some(learned)) => !learned.contains(awaits),
            (awaits, _) => awaits.is_none(),
        });
        // Even after a failure: earlier rejections stay.
        ledger.reject(place, dropped).await?;
        let done = storing.finish(ended).map_err(|interrupted| interrupted.error)?;
        report.complete &= done.complete;
        report.gone = match done.complete {
            true => asked - done.progress.received,
            false => 0,
        };
        report.refused = done.refused;
        report.progress = done.progress;
        Ok(())
    }

    /// Pages through the events of a scope, for peers without reconciliation.
    async fn page_through<L: Ledger + ?Sized>(
        &self,
        ledger: &L,
        scope: &Scope,
        options: SyncOptions,
        mut report: SyncReport,
    ) -> Result<SyncReport, SyncError> {
        let filter = EventFilter {
            services: scope
                .services
                .iter()
                .map(|service| service.as_str().to_owned())
                .collect(),
            ..EventFilter::default()
        };
        let begin = scope
            .from
            .map_or(Cursor::START, |from| Cursor::new(nanos(from), ""));
        let pager = Pager::resume(filter, MAX_EVENTS, begin);
        let end = scope.to.map(nanos);
        let mut over = false;
        let pages = PagesByTime::new(self.clone(), pager);
        let pages = pages_ahead(pages, self.page_checker()).take_while(move |page| {
            let wanted = !over;
            over = match (page, end) {
                (Ok(page), Some(end)) => page.cursor.ts() >= end,
                _ => false,
            };
            std::future::ready(wanted)
        });
        let mut storing = Storing::new(ledger, options.progress, options.pace);
        let ended = storing.store_all(pages.boxed(), None).await;
        let done = storing.finish(ended).map_err(|interrupted| interrupted.error)?;
        report.fell_back = true;
        report.complete = done.complete;
        report.refused = done.refused;
        report.progress = done.progress;
        Ok(report)
    }
}

/// Returns the naras whose keys changed meanwhile; `None` if there were too many changes to know.
fn learned_meanwhile(changes: &mut broadcast::Receiver<PeerEvent>) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    loop {
        match changes.try_recv() {
            Ok(change) => names.extend(learned(&change)),
            Err(TryRecvError::Lagged(_)) => return None,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Some(names),
        }
    }
}

fn nanos(time: UnixSeconds) -> UnixNanos {
    UnixNanos::new(time.get().saturating_mul(1_000_000_000))
}

/// The events of a peer with given ids.
struct ById {
    peer: PeerHandle,
    missing: VecDeque<ItemId>,
    /// Bounds the requests to a peer that returns one event at a time.
    requests_left: usize,
    size: PageSize,
}

impl PageSource for ById {
    async fn next(&mut self) -> Result<Option<FetchedPage>, ClientError> {
        while !self.missing.is_empty() && self.requests_left > 0 {
            let count = self.size.events().min(self.missing.len());
            let asked: Vec<_> = self.missing.drain(..count).collect();
            let begun = Instant::now();
            let page = match self.peer.fetch_by_ids(&asked).await {
                // The request grows with its events as well, so the answer may be late because the request was slow.
                Err(error)
                    if self.size.failed(&error, begun.elapsed())
                        || error.kind() == ClientErrorKind::Timeout && self.size.shrink() =>
                {
                    self.missing.extend(asked);
                    // The smaller pages need more requests.
                    self.requests_left += self.missing.len().div_ceil(self.size.events());
                    continue;
                }
                page => page?,
            };
            self.requests_left -= 1;
            self.size.arrived(begun.elapsed());
            if page.events.is_empty() {
                // All of them are gone.
                continue;
            }
            if page.events.len() < asked.len() {
                // The answer may be truncated, or events may be gone: the next answers tell.
                let mut waiting: HashMap<_, _> =
                    asked.into_iter().map(|item| (item.event_id(), item)).collect();
                for event in &page.events {
                    waiting.remove(&event.id);
                }
                self.missing.extend(waiting.into_values());
            }
            return Ok(Some(page));
        }
        Ok(None)
    }
}

impl PeerHandle {
    async fn fetch_by_ids(&self, items: &[ItemId]) -> Result<FetchedPage, ClientError> {
        let ids: Vec<_> = items.iter().map(ItemId::event_id).collect();
        let request = FetchRequest {
            from: self.exchange.local.name().as_str().to_owned(),
            ids: Some(ids.clone()),
        };
        let answer = self
            .exchange
            .call_for_events::<EventsFetch>(&self.peer, &request, self.call_timeout)
            .await?;
        let verification = self.verify_inner(&answer)?;
        let events = answer.value.events.unwrap_or_default();
        check_asked(ids, &events)
            .map_err(|error| ClientError::new(&answer.route, Problem::Reconcile(error)))?;
        Ok(FetchedPage {
            events,
            cursor: Cursor::START,
            bytes: answer.arrival.bytes,
            total: None,
            route: answer.route,
            verification,
        })
    }
}

/// Checks that each event was requested, and occurs once.
fn check_asked(ids: Vec<String>, events: &[SyncEvent]) -> Result<(), ReconcileError> {
    let mut asked: HashSet<String> = ids.into_iter().collect();
    match events.iter().find(|event| !asked.remove(&event.id)) {
        Some(event) => Err(ReconcileError::NotAsked {
            id: event.id.chars().take(64).collect(),
        }),
        None => Ok(()),
    }
}
