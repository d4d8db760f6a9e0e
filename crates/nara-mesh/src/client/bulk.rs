//! Syncs all events of a peer into a ledger, as fast as possible.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use nara_proto::event::{CheckedEvent, CheckedEvents, EventProblem, EventTrust, RefusedEvent, Service};
use nara_proto::reconcile::ItemId;
use nara_proto::sync::{Cursor, EventFilter, MAX_EVENTS};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::deadline::deadline_after;
use super::error::ClientError;
use super::handle::PeerHandle;
use super::pages::AHEAD;
use super::verified::SyncPage;
use crate::ledger::{ANY_VOTER, Insertion, Ledger, LedgerError};
use crate::registry::waits_for_key;

/// Maximum number of refused events listed in a report; further ones are only counted.
const MAX_NAMED: usize = 1000;

/// Options of [`PeerHandle::sync_into`] and [`PeerHandle::reconcile`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SyncOptions {
    /// Events per page, 1 to 5,000; fewer while the line is too slow for so many.
    pub page_size: usize,
    /// Whether to resume after the last sync of this peer and filter.
    pub resume: bool,
    /// Whether a reconciliation also sends the peer the events that it lacks, in zines.
    pub push: bool,
    /// Receives the progress after each page.
    pub progress: Option<watch::Sender<SyncProgress>>,
    /// Throttles a transfer that the nara started by itself.
    pub(crate) pace: Pace,
}

/// Throttles an unattended transfer, so that it neither takes over the machine nor runs forever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Pause after each page.
    pub(crate) pause: Duration,
    /// Time limit, after which the transfer ends as if there were no more pages, also within a page.
    pub(crate) time: Duration,
    /// Limit in bytes, likewise.
    pub(crate) bytes: u64,
    /// Limit of consecutive pages without a new event, likewise.
    pub(crate) idle_pages: usize,
}

impl Pace {
    const FREE: Self = Self {
        pause: Duration::ZERO,
        time: Duration::MAX,
        bytes: u64::MAX,
        idle_pages: usize::MAX,
    };
}

impl Default for SyncOptions {
    fn default() -> Self {
        Self {
            page_size: MAX_EVENTS,
            resume: true,
            push: false,
            progress: None,
            pace: Pace::FREE,
        }
    }
}

impl SyncOptions {
    /// Sets the number of events per page.
    #[must_use]
    pub fn page_size(mut self, page_size: usize) -> Self {
        self.page_size = page_size;
        self
    }

    /// Sets whether to resume after the last sync.
    #[must_use]
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Sets whether a reconciliation also sends the peer the events that it lacks.
    #[must_use]
    pub fn push(mut self, push: bool) -> Self {
        self.push = push;
        self
    }

    /// Returns the options with a receiver of progress updates.
    #[must_use]
    pub fn watched(mut self) -> (Self, watch::Receiver<SyncProgress>) {
        let (sender, receiver) = watch::channel(SyncProgress::default());
        self.progress = Some(sender);
        (self, receiver)
    }
}

/// The progress of a transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncProgress {
    /// Number of pages stored.
    pub pages: usize,
    /// Number of events received.
    pub received: usize,
    /// Received events with verified signatures.
    pub verified: usize,
    /// Received events signed with unknown keys.
    pub unknown_key: usize,
    /// Received events of services that may be unsigned.
    pub unsigned: usize,
    /// Number of events refused.
    pub refused: usize,
    /// Refused events that lack a signature, as in old ledgers of v1 peers: not the fault of the peer.
    pub refused_unsigned: usize,
    /// Accepted events that are new in the ledger.
    pub stored: usize,
    /// Accepted events that the ledger already had.
    pub duplicates: usize,
    /// Accepted events that the retention policy rejects.
    pub not_retained: usize,
    /// Size of the answers in bytes.
    pub bytes: u64,
    /// Time since the start.
    pub elapsed: Duration,
    /// The number of remaining events, if the peer announces its total and the transfer starts from the
    /// beginning.
    pub remaining: Option<u64>,
    /// Where to resume; `None` before the first page.
    pub cursor: Option<Cursor>,
}

impl SyncProgress {
    fn count(&mut self, page: &CheckedEvents) {
        self.received += page.received();
        self.refused += page.refused.len();
        let unsigned = |event: &&RefusedEvent| event.problem == EventProblem::MustBeSigned;
        self.refused_unsigned += page.refused.iter().filter(unsigned).count();
        for checked in &page.accepted {
            match checked.trust {
                EventTrust::Verified => self.verified += 1,
                EventTrust::Unsigned => self.unsigned += 1,
                _ => self.unknown_key += 1,
            }
        }
    }

    fn count_insertions(&mut self, insertions: &[Insertion]) {
        for insertion in insertions {
            match insertion {
                Insertion::Stored => self.stored += 1,
                Insertion::Duplicate => self.duplicates += 1,
                Insertion::Forgotten | Insertion::NotRetained => self.not_retained += 1,
            }
        }
    }

    /// Returns the received events per second.
    pub fn events_per_second(&self) -> f64 {
        self.received as f64 / self.elapsed.as_secs_f64().max(1e-6)
    }
}

/// The result of a transfer, a reconciliation, or a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncReport {
    /// Counts of received, stored and refused events.
    pub progress: SyncProgress,
    /// Where a sync by pages resumed, unless at the beginning.
    pub resumed: Option<Cursor>,
    /// The first thousand refused events.
    pub refused: Vec<RefusedEvent>,
    /// Number of rounds of comparison; 0 if nothing was compared.
    pub rounds: usize,
    /// Bytes of the comparison frames sent, without headers.
    pub bytes_sent: u64,
    /// Bytes of the comparison frames received, without headers.
    pub bytes_received: u64,
    /// Whether both sides had the same events in the scope at the comparison.
    pub in_sync: bool,
    /// Number of events of this nara in the scope at that time; counted only by [`PeerHandle::check_in_sync`].
    pub events_here: usize,
    /// Whether the whole difference was found and fetched. If not, the sets differ too much for the limit of
    /// rounds, or the peer sent more than allowed at once: the next transfer continues.
    pub complete: bool,
    /// Whether the peer does not support reconciliation, so that its events were fetched page by page. The
    /// difference is then unknown.
    pub fell_back: bool,
    /// Events that only the peer has.
    pub missing_here: usize,
    /// Events that only this nara has.
    pub missing_there: usize,
    /// Missing events that were rejected from this peer before, and not fetched.
    pub rejected_before: usize,
    /// Requested events that the peer no longer has.
    pub gone: usize,
    /// Number of events offered to the peer.
    pub pushed: usize,
}

/// The reason why a transfer failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SyncError {
    /// The ledger failed.
    #[error("the ledger failed; earlier events are stored")]
    Ledger(#[from] LedgerError),
    /// The peer failed.
    #[error(transparent)]
    Peer(#[from] ClientError),
}

/// A failed transfer. The counted events are stored; the next transfer continues after them.
#[derive(Debug)]
pub struct InterruptedSync {
    /// The result so far.
    pub report: SyncReport,
    /// The cause.
    pub error: SyncError,
}

impl fmt::Display for InterruptedSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for InterruptedSync {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl PeerHandle {
    /// Fetches all events of the peer that match the filter into a ledger, oldest first, each verified.
    ///
    /// While pages are written, the next ones are verified on all cores and requested, a few at a time. The report
    /// counts and lists refused events. The cursor is stored after the pages, so that an interrupted sync resumes
    /// there; after `kill -9` some pages may be fetched twice, and the ledger drops the duplicates. Pages shrink on
    /// a slow line: see [`PeerHandle::sync_pages`].
    ///
    /// Pages are ordered by the time of events: only [`PeerHandle::reconcile`] finds events with an older time
    /// that reach the peer later.
    ///
    /// # Errors
    /// [`InterruptedSync`] with the report so far and the cause.
    pub async fn sync_into<L: Ledger + ?Sized>(
        &self,
        ledger: &L,
        filter: EventFilter,
        options: SyncOptions,
    ) -> Result<SyncReport, Box<InterruptedSync>> {
        let place = self.cursor_place(&filter);
        let mut storing = Storing::new(ledger, options.progress, options.pace);
        let ended = async {
            if options.resume {
                storing.report.resumed = ledger.cursor(place.clone()).await?;
            }
            let resumed = storing.report.resumed.clone();
            let pages = self.sync_pages(filter, options.page_size, resumed);
            storing.store_all(pages, Some(&place)).await
        }
        .await;
        storing.finish(ended)
    }

    /// Returns the key under which a ledger stores the sync cursor of the peer: each filter has its own.
    pub fn cursor_place(&self, filter: &EventFilter) -> String {
        let label = self
            .known()
            .map_or_else(|| self.peer.to_string(), |peer| peer.info().label());
        if filter.is_empty() {
            label
        } else {
            format!("{label} {:?} {:?}", filter.services, filter.subjects)
        }
    }
}

/// Stores pages into a ledger.
pub(super) struct Storing<'a, L: ?Sized> {
    ledger: &'a L,
    pub(super) report: SyncReport,
    watch: Option<watch::Sender<SyncProgress>>,
    started: Instant,
    pace: Pace,
    /// Consecutive pages without a new event.
    idle_pages: usize,
    /// Whether a limit of the pace ended it.
    is_cut: bool,
    /// Refused events and events the ledger did not keep, as
    /// [`TransferStore::reject`](crate::ledger::TransferStore) takes them; `None` if not needed.
    pub(super) dropped: Option<Vec<(ItemId, Option<String>)>>,
    /// Events from the future by our clock. If our clock is slow, they become valid once it is corrected.
    ahead: usize,
}

impl<'a, L: Ledger + ?Sized> Storing<'a, L> {
    pub(super) fn new(ledger: &'a L, watch: Option<watch::Sender<SyncProgress>>, pace: Pace) -> Self {
        Self {
            ledger,
            report: SyncReport::default(),
            watch,
            started: Instant::now(),
            pace,
            idle_pages: 0,
            is_cut: false,
            dropped: None,
            ahead: 0,
        }
    }

    /// Stores the pages, those that are ready together, and after each time the cursor under the key `place`.
    pub(super) async fn store_all(
        &mut self,
        pages: BoxStream<'static, Result<SyncPage, ClientError>>,
        place: Option<&str>,
    ) -> Result<(), SyncError> {
        let is_throttled = !self.pace.pause.is_zero();
        let mut pages = pages.ready_chunks(if is_throttled { 1 } else { AHEAD });
        let remaining = self.pace.time.saturating_sub(self.started.elapsed());
        let end = deadline_after(remaining);
        loop {
            let is_over = match timeout_at(end, pages.next()).await {
                Ok(Some(ready)) => {
                    let mut good = Vec::with_capacity(ready.len());
                    let ended = ready
                        .into_iter()
                        .try_for_each(|page| page.map(|page| good.push(page)));
                    self.store(good, place).await?;
                    ended?;
                    self.is_over()
                }
                Ok(None) => return Ok(()),
                Err(_) => true,
            };
            if is_over {
                self.is_cut = true;
                return Ok(());
            }
            if is_throttled {
                sleep(self.pace.pause).await;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.started.elapsed() >= self.pace.time
            || self.report.progress.bytes >= self.pace.bytes
            || self.idle_pages >= self.pace.idle_pages
    }

    async fn store(&mut self, pages: Vec<SyncPage>, place: Option<&str>) -> Result<(), SyncError> {
        let mut progress = self.report.progress.clone();
        progress.pages += pages.len();
        let mut pages = pages.into_iter();
        let Some(mut page) = pages.next() else {
            return Ok(());
        };
        for next in pages {
            page.append(next);
        }
        let room = MAX_NAMED.saturating_sub(self.report.refused.len());
        let refused = page.events.refused.iter();
        self.report.refused.extend(refused.clone().take(room).cloned());
        for event in refused {
            let is_ahead = event.problem == EventProblem::Future;
            self.ahead += usize::from(is_ahead);
            // Request events from the future again, unless there are too many for a clock error to explain.
            if let Some(dropped) = &mut self.dropped
                && !(is_ahead && self.ahead <= MAX_NAMED)
            {
                dropped.extend(rejection(&event.id, awaited_by_refused(event)));
            }
        }
        progress.count(&page.events);
        // Collected only if needed, as it copies ids.
        let rejections: Option<Vec<_>> = self.dropped.is_some().then(|| {
            let accepted = page.events.accepted.iter();
            let rejections = accepted.map(|checked| rejection(&checked.event.id, awaited_by(checked)));
            let verified = page.events.accepted.iter().map(CheckedEvent::is_verified);
            verified.zip(rejections).collect()
        });
        let told_by = page.verification.responder;
        let insertions = self.ledger.insert(page.events.accepted, told_by).await?;
        // Store the cursor after the events, never before; and not past an event from the future.
        if let Some(place) = place.filter(|_| self.ahead == 0) {
            self.ledger
                .store_cursor(place.to_owned(), page.cursor.clone())
                .await?;
        }
        if let (Some(dropped), Some(rejections)) = (&mut self.dropped, rejections) {
            let kept = |insertion: &Insertion| matches!(insertion, Insertion::Stored | Insertion::Duplicate);
            let outcomes = rejections.into_iter().zip(&insertions);
            // Unverified events are not in our set, stored or not.
            let lost = outcomes.filter(|((verified, _), insertion)| !verified || !kept(insertion));
            dropped.extend(lost.filter_map(|((_, rejection), _)| rejection));
        }

        let is_new = |insertion: &Insertion| *insertion == Insertion::Stored;
        self.idle_pages = match insertions.iter().any(is_new) {
            true => 0,
            false => self.idle_pages + 1,
        };
        progress.count_insertions(&insertions);
        progress.bytes += page.bytes as u64;
        progress.elapsed = self.started.elapsed();
        progress.remaining = match page.total {
            Some(total) if self.report.resumed.is_none() => {
                Some(total.saturating_sub(progress.received as u64))
            }
            _ => None,
        };
        progress.cursor = Some(page.cursor);
        if let Some(watch) = &self.watch {
            watch.send_replace(progress.clone());
        }
        self.report.progress = progress;
        Ok(())
    }

    pub(super) fn finish(mut self, ended: Result<(), SyncError>) -> Result<SyncReport, Box<InterruptedSync>> {
        self.report.progress.elapsed = self.started.elapsed();
        let mut report = self.report;
        report.complete = ended.is_ok() && !self.is_cut;
        match ended {
            Ok(()) => Ok(report),
            Err(error) => Err(Box::new(InterruptedSync { report, error })),
        }
    }
}

/// Returns `None` for an id that no reconciliation can name.
fn rejection(id: &str, awaits: Option<String>) -> Option<(ItemId, Option<String>)> {
    Some((ItemId::of_event(id)?, awaits))
}

/// Returns the nara whose key could verify an event that is unverified.
fn awaited_by(checked: &CheckedEvent) -> Option<String> {
    match (checked.trust, checked.event.service()) {
        (EventTrust::Verified | EventTrust::Unsigned, _) => None,
        (_, Some(Service::Checkpoint)) => Some(ANY_VOTER.to_owned()),
        _ => Some(checked.event.actor().to_owned()),
    }
}

/// Returns the same for a refused event: another key of its emitter, or another decision about it, may change the
/// verdict.
fn awaited_by_refused(event: &RefusedEvent) -> Option<String> {
    let by_key = waits_for_key(Err(event.problem));
    (by_key && !event.emitter.is_empty()).then(|| event.emitter.clone())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::ledger::MemoryLedger;

    #[tokio::test(start_paused = true)]
    async fn a_transfer_with_a_time_limit_does_not_wait_for_a_page_any_longer() {
        let ledger = MemoryLedger::new();
        let pace = Pace {
            time: Duration::from_secs(120),
            ..Pace::FREE
        };
        let mut storing = Storing::new(&ledger, None, pace);
        let ended = storing.store_all(stream::pending().boxed(), None).await;
        let report = storing.finish(ended).unwrap();
        assert!(!report.complete);
        assert_eq!(report.progress.elapsed.as_secs(), 120);
    }
}
