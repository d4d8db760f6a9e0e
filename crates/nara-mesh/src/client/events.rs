//! Calls that return events: sync, checkpoints, zines.

use futures_util::stream::BoxStream;
use nara_proto::endpoint::{AllCheckpoints, CheckpointsRequest, EventsSync, GossipZine};
use nara_proto::event::{CheckedEvents, Service, SyncEvent};
use nara_proto::identity::PublicKey;
use nara_proto::sync::{Cursor, EventFilter, Pager, SyncRequest, SyncResponse};
use nara_proto::zine::Zine;
use tokio::time::Instant;

use super::error::{ClientError, Problem};
use super::exchange::Answer;
use super::handle::PeerHandle;
use super::pages::{FetchedPage, PageChecker, PageSize, PageSource, pages_ahead};
use super::resolve::Route;
use super::verified::{SyncEvents, SyncPage, Verification, Verified};

/// Checkpoints per page.
const CHECKPOINT_PAGE: usize = 1000;

/// Maximum number of checkpoints fetched from one peer.
const MAX_CHECKPOINTS: usize = 100_000;

impl PeerHandle {
    /// Fetches events of the peer in one answer. Sets `from` of the request to our name. The answer must begin within
    /// the time limit of a call, and may then take 15 s more while its bytes keep arriving.
    ///
    /// # Errors
    /// [`ClientError`]. A refused event is not an error: see [`CheckedEvents::refused`].
    pub async fn fetch_sync_events(&self, request: SyncRequest) -> Result<Verified<SyncEvents>, ClientError> {
        let (answer, verification) = self.sync(request).await?;
        let SyncResponse {
            from,
            events,
            next_cursor,
            ts,
            next_after,
            ..
        } = answer.value;
        let events = self
            .check(&answer.route, events.unwrap_or_default(), self.deadline())
            .await?;
        let value = SyncEvents {
            from,
            ts,
            events,
            next_cursor,
            next_after: next_after.parse().ok(),
            more: false,
        };
        Ok(Verified::new(value, verification))
    }

    /// Pages through the events of the peer, oldest first, each exactly once, `page_size` at a time, starting
    /// after `resume`. Each page must begin within the time limit of one call, and may then take 15 s more while its
    /// bytes keep arriving. A page that is still too slow is requested again with a quarter of the events, up to
    /// three times in a row; pages grow again while they arrive within the limit of a call. The stream ends after
    /// the first error; [`SyncPage::cursor`] of the previous page tells where to resume.
    ///
    /// Prefetches: while the caller handles one page, the next ones are verified on all cores and requested, a few
    /// of them, or one of each if pages are large. Needs the tokio runtime; dropping the stream cancels the requests.
    pub fn sync_pages(
        &self,
        filter: EventFilter,
        page_size: usize,
        resume: Option<Cursor>,
    ) -> BoxStream<'static, Result<SyncPage, ClientError>> {
        let pager = Pager::resume(filter, page_size, resume.unwrap_or(Cursor::START));
        let pages = PagesByTime::new(self.clone(), pager);
        pages_ahead(pages, self.page_checker())
    }

    /// Fetches all checkpoints of the peer (at most 100,000): by event sync, or from the legacy checkpoint
    /// endpoint if sync returns none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fetch_checkpoints(&self) -> Result<Verified<SyncEvents>, ClientError> {
        let filter = EventFilter {
            services: vec![Service::Checkpoint.as_str().to_owned()],
            ..EventFilter::default()
        };
        let mut pages = PagesByTime::new(self.clone(), Pager::new(filter, CHECKPOINT_PAGE));
        let mut checkpoints = SyncEvents::default();
        let mut verification = Verification::open();
        while let Some(page) = pages.next().await? {
            let page = self.page_checker().check(page).await?;
            checkpoints.events.append(page.events);
            verification = page.verification;
            checkpoints.more = checkpoints.events.received() >= MAX_CHECKPOINTS;
            if checkpoints.more {
                break;
            }
        }
        if checkpoints.events.received() > 0 {
            return Ok(Verified::new(checkpoints, verification));
        }
        let checkpoints = self.fetch_old_checkpoints().await?;
        Ok(Verified::new(checkpoints, Verification::open()))
    }

    /// Sends a zine of these events, signed by us, and returns the events of the peer's zine.
    ///
    /// # Errors
    /// [`ClientError`]. A refused event is not an error: see [`CheckedEvents::refused`].
    pub async fn exchange_zine(&self, events: Vec<SyncEvent>) -> Result<Verified<SyncEvents>, ClientError> {
        let local = &self.exchange.local;
        let now = self.exchange.clocks.clock().now_seconds();
        let zine = Zine::signed(local.name().as_str(), now, events, local.keypair());
        let answer = self
            .exchange
            .call_for_events::<GossipZine>(&self.peer, &zine, self.call_timeout)
            .await?;
        let verification = self.verify_inner(&answer)?;
        let zine = answer.value;
        let events = self
            .check(&answer.route, zine.events.unwrap_or_default(), self.deadline())
            .await?;
        let value = SyncEvents {
            from: zine.from,
            ts: zine.created_at,
            events,
            ..SyncEvents::default()
        };
        Ok(Verified::new(value, verification))
    }

    /// Fetches one page; its events are not yet verified.
    async fn fetch_page(&self, pager: &mut Pager) -> Result<Option<FetchedPage>, ClientError> {
        let Some(request) = pager.next_request() else {
            return Ok(None);
        };
        let (answer, verification) = self.sync(request).await?;
        let total = answer.value.total;
        let events = pager
            .accept(answer.value)
            .map_err(|error| ClientError::new(&answer.route, Problem::Page(error)))?;
        Ok(Some(FetchedPage {
            events,
            cursor: pager.cursor().clone(),
            bytes: answer.arrival.bytes,
            total: (total > 0).then_some(total),
            route: answer.route,
            verification,
        }))
    }

    /// Returns the verifier of pages.
    pub(super) fn page_checker(&self) -> PageChecker {
        PageChecker {
            events: self.exchange.event_checker(),
            limit: self.call_timeout,
        }
    }

    async fn fetch_old_checkpoints(&self) -> Result<SyncEvents, ClientError> {
        let mut checkpoints = SyncEvents::default();
        let mut size = PageSize::new(CHECKPOINT_PAGE, self.call_timeout);
        loop {
            let received = checkpoints.events.received();
            let request = CheckpointsRequest {
                limit: u32::try_from(size.events()).unwrap_or(u32::MAX),
                offset: u32::try_from(received).unwrap_or(u32::MAX),
            };
            let begun = Instant::now();
            let call =
                self.exchange
                    .call_for_events::<AllCheckpoints>(&self.peer, &request, self.call_timeout);
            let answer = match call.await {
                Err(error) if size.failed(&error, begun.elapsed()) => continue,
                answer => answer?,
            };
            size.arrived(begun.elapsed());
            let events = answer.value.checkpoints.unwrap_or_default();
            checkpoints.more = answer.value.has_more && !events.is_empty();
            checkpoints
                .events
                .append(self.check(&answer.route, events, self.deadline()).await?);
            if !checkpoints.more || checkpoints.events.received() >= MAX_CHECKPOINTS {
                return Ok(checkpoints);
            }
        }
    }

    /// Runs one event sync and verifies both signatures of the answer, but not yet its events.
    async fn sync(
        &self,
        mut request: SyncRequest,
    ) -> Result<(Answer<SyncResponse>, Verification), ClientError> {
        self.exchange.local.name().as_str().clone_into(&mut request.from);
        let answer = self
            .exchange
            .call_for_events::<EventsSync>(&self.peer, &request, self.call_timeout)
            .await?;
        let verification = self.verify_inner(&answer)?;
        Ok((answer, verification))
    }

    /// Verifies the signature inside an answer, with the key that signed its header. It may be missing if the
    /// whole answer is bound to this request, by a v2 signature or by its connection.
    pub(super) fn verify_inner<T: SignedInside>(
        &self,
        answer: &Answer<T>,
    ) -> Result<Verification, ClientError> {
        let mut verification = answer.verification.clone();
        verification.inner = match (&verification.key, &verification.responder) {
            (Some(key), Some(name)) => answer.value.is_signed_by(name.as_str(), key),
            _ => false,
        };
        let proven = verification.bound
            && verification
                .responder
                .as_ref()
                .is_some_and(|name| answer.value.is_unsigned_of(name.as_str()));
        if verification.inner || proven || self.exchange.verifier.accept_unverified {
            Ok(verification)
        } else {
            Err(ClientError::new(&answer.route, Problem::InnerSignature))
        }
    }

    async fn check(
        &self,
        route: &Route,
        events: Vec<SyncEvent>,
        deadline: Instant,
    ) -> Result<CheckedEvents, ClientError> {
        if events.is_empty() {
            return Ok(CheckedEvents::default());
        }
        let checker = self.exchange.event_checker();
        checker
            .check(events, deadline)
            .await
            .map_err(|problem| ClientError::new(route, problem))
    }
}

/// The pages of a peer, by time.
#[derive(Debug)]
pub(super) struct PagesByTime {
    peer: PeerHandle,
    pager: Pager,
    size: PageSize,
}

impl PagesByTime {
    pub(super) fn new(peer: PeerHandle, pager: Pager) -> Self {
        let size = PageSize::new(pager.size(), peer.call_timeout);
        Self { peer, pager, size }
    }
}

impl PageSource for PagesByTime {
    async fn next(&mut self) -> Result<Option<FetchedPage>, ClientError> {
        loop {
            let begun = Instant::now();
            let fetched = self.peer.fetch_page(&mut self.pager).await;
            let resized = match &fetched {
                Err(error) if self.size.failed(error, begun.elapsed()) => {
                    self.pager.resize(self.size.events());
                    continue;
                }
                Ok(Some(page)) if !page.events.is_empty() => self.size.arrived(begun.elapsed()),
                _ => false,
            };
            // Otherwise keep the size that the pager may have chosen to get past events that share a time.
            if resized {
                self.pager.resize(self.size.events());
            }
            return fetched;
        }
    }
}

/// A message with an inner signature over its maker, its time and the ids of its events.
pub(super) trait SignedInside {
    fn is_signed_by(&self, name: &str, key: &PublicKey) -> bool;

    /// Returns whether it is from this nara and has no signature.
    fn is_unsigned_of(&self, name: &str) -> bool;
}

impl SignedInside for SyncResponse {
    fn is_signed_by(&self, name: &str, key: &PublicKey) -> bool {
        // Cheap checks first: verification hashes the events.
        !self.sig.is_empty() && self.from == name && self.verify(key).is_ok()
    }

    fn is_unsigned_of(&self, name: &str) -> bool {
        self.from == name && self.sig.is_empty()
    }
}

impl SignedInside for Zine {
    fn is_signed_by(&self, name: &str, key: &PublicKey) -> bool {
        self.from == name && self.verify(key).is_ok()
    }

    fn is_unsigned_of(&self, name: &str) -> bool {
        self.from == name && self.signature.is_empty()
    }
}
