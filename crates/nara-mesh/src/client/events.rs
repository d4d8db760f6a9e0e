//! Calls whose answers are events: sync, checkpoints, zines.

use futures_util::future::BoxFuture;
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
use super::pages::{FetchedPage, PageChecker, PageSource, pages_ahead};
use super::resolve::Route;
use super::verified::{SyncEvents, SyncPage, Verification, Verified};

/// Checkpoints on one page.
const CHECKPOINT_PAGE: usize = 1000;

/// The most checkpoints that are fetched from one peer.
const MAX_CHECKPOINTS: usize = 100_000;

impl PeerHandle {
    /// Fetches events of the peer: one answer. `from` of the request is set to our name.
    ///
    /// # Errors
    /// [`ClientError`]. An event that must not be stored is not an error: see [`CheckedEvents::refused`].
    pub async fn fetch_sync_events(&self, request: SyncRequest) -> Result<Verified<SyncEvents>, ClientError> {
        let deadline = self.deadline();
        let (answer, verification) = self.sync(request, deadline).await?;
        let SyncResponse {
            from,
            events,
            next_cursor,
            ts,
            next_after,
            ..
        } = answer.value;
        let events = self
            .check(&answer.route, events.unwrap_or_default(), deadline)
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

    /// Pages through the events of the peer, oldest first, each exactly once, `page_size` of them at a time,
    /// beginning behind `resume`. Each page has the time limit of one call. The stream ends behind the first
    /// error; [`SyncPage::cursor`] of the page before says where to resume.
    ///
    /// Pages are fetched ahead: while one is in the hands of the caller, the next one is verified on all cores
    /// and the one after it is requested. No more than these three are held. Runs on the runtime of tokio;
    /// dropping the stream ends the requests.
    pub fn sync_pages(
        &self,
        filter: EventFilter,
        page_size: usize,
        resume: Option<Cursor>,
    ) -> BoxStream<'static, Result<SyncPage, ClientError>> {
        let pager = Pager::resume(filter, page_size, resume.unwrap_or(Cursor::START));
        let pages = PagesByTime {
            peer: self.clone(),
            pager,
        };
        pages_ahead(pages, self.page_checker())
    }

    /// Fetches all checkpoints of the peer (at most 100,000): by event sync, or from its older endpoint for
    /// checkpoints if that gives none.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fetch_checkpoints(&self) -> Result<Verified<SyncEvents>, ClientError> {
        let filter = EventFilter {
            services: vec![Service::Checkpoint.as_str().to_owned()],
            ..EventFilter::default()
        };
        let mut pager = Pager::new(filter, CHECKPOINT_PAGE);
        let mut checkpoints = SyncEvents::default();
        let mut verification = Verification::open();
        while let Some(page) = self.next_page(&mut pager).await? {
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

    /// Sends a zine of these events, signed by us, and returns the zine of the peer.
    ///
    /// # Errors
    /// [`ClientError`]. An event that must not be stored is not an error: see [`CheckedEvents::refused`].
    pub fn exchange_zine(
        &self,
        events: Vec<SyncEvent>,
    ) -> BoxFuture<'_, Result<Verified<SyncEvents>, ClientError>> {
        Box::pin(async move {
            let deadline = self.deadline();
            let local = &self.exchange.local;
            let now = self.exchange.clocks.clock().now_seconds();
            let zine = Zine::signed(local.name().as_str(), now, events, local.keypair());
            let answer = self
                .exchange
                .call::<GossipZine>(&self.peer, &zine, deadline)
                .await?;
            let verification = self.verify_inner(&answer)?;
            let zine = answer.value;
            let events = self
                .check(&answer.route, zine.events.unwrap_or_default(), deadline)
                .await?;
            let value = SyncEvents {
                from: zine.from,
                ts: zine.created_at,
                events,
                ..SyncEvents::default()
            };
            Ok(Verified::new(value, verification))
        })
    }

    async fn next_page(&self, pager: &mut Pager) -> Result<Option<SyncPage>, ClientError> {
        match self.fetch_page(pager).await? {
            Some(page) => Ok(Some(self.page_checker().check(page).await?)),
            None => Ok(None),
        }
    }

    /// One page, its events not yet verified.
    pub(super) async fn fetch_page(&self, pager: &mut Pager) -> Result<Option<FetchedPage>, ClientError> {
        let Some(request) = pager.next_request() else {
            return Ok(None);
        };
        let deadline = self.deadline();
        let (answer, verification) = self.sync(request, deadline).await?;
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

    /// What verifies the events of pages.
    pub(super) fn page_checker(&self) -> PageChecker {
        PageChecker {
            events: self.exchange.event_checker(),
            limit: self.call_timeout,
        }
    }

    fn fetch_old_checkpoints(&self) -> BoxFuture<'_, Result<SyncEvents, ClientError>> {
        Box::pin(async move {
            let mut checkpoints = SyncEvents::default();
            loop {
                let deadline = self.deadline();
                let received = checkpoints.events.received();
                let request = CheckpointsRequest {
                    limit: CHECKPOINT_PAGE as u32,
                    offset: u32::try_from(received).unwrap_or(u32::MAX),
                };
                let answer = self
                    .exchange
                    .call::<AllCheckpoints>(&self.peer, &request, deadline)
                    .await?;
                let events = answer.value.checkpoints.unwrap_or_default();
                checkpoints.more = answer.value.has_more && !events.is_empty();
                checkpoints
                    .events
                    .append(self.check(&answer.route, events, deadline).await?);
                if !checkpoints.more || checkpoints.events.received() >= MAX_CHECKPOINTS {
                    return Ok(checkpoints);
                }
            }
        })
    }

    /// One event sync, with both signatures of the answer verified, but not yet its events.
    fn sync(
        &self,
        mut request: SyncRequest,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<(Answer<SyncResponse>, Verification), ClientError>> {
        Box::pin(async move {
            self.exchange.local.name().as_str().clone_into(&mut request.from);
            let answer = self
                .exchange
                .call::<EventsSync>(&self.peer, &request, deadline)
                .await?;
            let verification = self.verify_inner(&answer)?;
            Ok((answer, verification))
        })
    }

    /// Verifies the signature inside an answer, with the key that signed its header. There may be none where the whole
    /// answer is proven to belong to this very request: by a signature of v2, or by its connection.
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
    pub(super) peer: PeerHandle,
    pub(super) pager: Pager,
}

impl PageSource for PagesByTime {
    async fn next(&mut self) -> Result<Option<FetchedPage>, ClientError> {
        self.peer.fetch_page(&mut self.pager).await
    }
}

/// A message with a signature inside, over its maker, its time and the ids of its events.
pub(super) trait SignedInside {
    fn is_signed_by(&self, name: &str, key: &PublicKey) -> bool;

    /// Whether it is of this nara, and has no signature at all.
    fn is_unsigned_of(&self, name: &str) -> bool;
}

impl SignedInside for SyncResponse {
    fn is_signed_by(&self, name: &str, key: &PublicKey) -> bool {
        // Its digest costs more than a look.
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
