//! Prefetching: while a page is verified, the next one is fetched.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{self, BoxStream};
use nara_proto::event::SyncEvent;
use nara_proto::sync::Cursor;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument as _;

use super::deadline::deadline_after;
use super::error::{ClientError, ClientErrorKind};
use super::event_check::EventChecker;
use super::resolve::Route;
use super::verified::{SyncPage, Verification};

/// A page whose events are not yet verified.
#[derive(Debug)]
pub(super) struct FetchedPage {
    pub(super) events: Vec<SyncEvent>,
    pub(super) cursor: Cursor,
    pub(super) bytes: usize,
    pub(super) total: Option<u64>,
    pub(super) route: Route,
    pub(super) verification: Verification,
}

/// The number of events per page: smaller after a page that arrived too slowly, and larger again while pages arrive
/// fast.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageSize {
    most: usize,
    now: usize,
    /// A page that takes longer is not followed by a larger one.
    fast: Duration,
    /// Consecutive pages that arrived too slowly.
    slow: usize,
}

impl PageSize {
    /// How often a page is requested again with a quarter of the events, so that a peer that drips is given up.
    const RETRIES: usize = 3;

    pub(super) fn new(most: usize, fast: Duration) -> Self {
        Self {
            most,
            now: most,
            fast,
            slow: 0,
        }
    }

    pub(super) fn events(&self) -> usize {
        self.now
    }

    /// Records a failed page, and returns whether to request it again.
    ///
    /// A page that breaks off late may be one for which the peer did not want to wait longer.
    pub(super) fn failed(&mut self, error: &ClientError, took: Duration) -> bool {
        let broke_off = error.kind() == ClientErrorKind::Broken && took > self.fast;
        (error.is_too_slow() || broke_off) && self.shrink()
    }

    /// Returns whether to request the page again, with fewer events.
    pub(super) fn shrink(&mut self) -> bool {
        if self.now <= 1 || self.slow == Self::RETRIES {
            return false;
        }
        self.slow += 1;
        self.now = (self.now / 4).max(1);
        tracing::debug!(
            events = self.now,
            "a page was too slow, a smaller one is requested"
        );
        true
    }

    /// Records a page with events, and returns whether the next one is larger.
    pub(super) fn arrived(&mut self, took: Duration) -> bool {
        self.slow = 0;
        let grows = self.now < self.most && took < self.fast;
        if grows {
            self.now = (self.now * 2).min(self.most);
        }
        grows
    }
}

/// A source of consecutive pages.
pub(super) trait PageSource: Send + 'static {
    /// Fetches the next page; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<FetchedPage>, ClientError>> + Send;
}

/// Verifies the events of pages.
#[derive(Clone, Debug)]
pub(super) struct PageChecker {
    pub(super) events: EventChecker,
    /// Time limit per page.
    pub(super) limit: Duration,
}

impl PageChecker {
    pub(super) async fn check(&self, page: FetchedPage) -> Result<SyncPage, ClientError> {
        let deadline = deadline_after(self.limit);
        let checked = self.events.check(page.events, deadline).await;
        Ok(SyncPage {
            events: checked.map_err(|problem| ClientError::new(&page.route, problem))?,
            cursor: page.cursor,
            bytes: page.bytes,
            total: page.total,
            verification: page.verification,
        })
    }
}

/// Number of verified pages that wait for the caller. Storing is the slowest of the three stages, and one transaction
/// of several pages costs less than one each: they change the same pages of the database.
pub(super) const AHEAD: usize = 4;

/// A page of more bytes waits to be verified until the caller has taken all others, so that large events do not
/// multiply the memory of a transfer.
const LARGE: usize = 4 << 20;

/// Returns the pages of a source, verified.
///
/// Two tasks work ahead of the stream: one page is being fetched, one waits to be verified, and up to [`AHEAD`] are
/// verified, or one if it is large.
pub(super) fn pages_ahead(
    source: impl PageSource,
    checker: PageChecker,
) -> BoxStream<'static, Result<SyncPage, ClientError>> {
    let begin = State::New(source, checker);
    Box::pin(stream::unfold(begin, |state| async {
        let mut ahead = match state {
            // Spawned lazily: the stream may be created outside of a runtime.
            State::New(source, checker) => Ahead::start(source, checker),
            State::Running(ahead) => ahead,
        };
        let page = ahead.next().await?;
        Some((page, State::Running(ahead)))
    }))
}

enum State<S> {
    New(S, PageChecker),
    Running(Ahead),
}

struct Ahead {
    pages: mpsc::Receiver<Result<SyncPage, ClientError>>,
    /// Aborted on drop.
    tasks: JoinSet<()>,
}

impl Ahead {
    fn start(source: impl PageSource, checker: PageChecker) -> Self {
        let (fetched, to_verify) = mpsc::channel(1);
        let (verified, pages) = mpsc::channel(AHEAD);
        let mut tasks = JoinSet::new();
        tasks.spawn(fetch(source, fetched).in_current_span().boxed());
        tasks.spawn(verify(checker, to_verify, verified).in_current_span().boxed());
        Self { pages, tasks }
    }

    async fn next(&mut self) -> Option<Result<SyncPage, ClientError>> {
        if let Some(page) = self.pages.recv().await {
            return Some(page);
        }
        // Propagate a panic: it must not look like the end of the pages.
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        None
    }
}

async fn fetch(mut source: impl PageSource, fetched: mpsc::Sender<Result<FetchedPage, ClientError>>) {
    while let Ok(place) = fetched.reserve().await {
        match source.next().await.transpose() {
            Some(page) => {
                let failed = page.is_err();
                place.send(page);
                if failed {
                    return;
                }
            }
            None => return,
        }
    }
}

async fn verify(
    checker: PageChecker,
    mut to_verify: mpsc::Receiver<Result<FetchedPage, ClientError>>,
    verified: mpsc::Sender<Result<SyncPage, ClientError>>,
) {
    while let Some(page) = to_verify.recv().await {
        let is_large = page.as_ref().is_ok_and(|page| page.bytes > LARGE);
        let Ok(mut places) = verified.reserve_many(if is_large { AHEAD } else { 1 }).await else {
            return;
        };
        let page = match page {
            Ok(page) => checker.check(page).await,
            Err(error) => Err(error),
        };
        let failed = page.is_err();
        if let Some(place) = places.next() {
            place.send(page);
        }
        if failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::StreamExt as _;
    use tokio::task::yield_now;

    use super::super::clocks::PeerClocks;
    use super::super::error::{Problem, Stage};
    use super::*;
    use crate::clock::SystemClock;
    use crate::identity::LocalNara;
    use crate::registry::{KnownKeys, PeerRegistry};

    const FAST: Duration = Duration::from_secs(5);

    #[test]
    fn pages_shrink_while_they_are_too_slow_and_grow_while_they_are_fast() {
        let slow = ClientError::new("bob", Problem::Timeout(Stage::Slow));
        let mut size = PageSize::new(1000, FAST);
        assert!(size.failed(&slow, 4 * FAST) && size.failed(&slow, 4 * FAST));
        assert_eq!(size.events(), 62);
        assert!(!size.arrived(2 * FAST));
        assert_eq!(size.events(), 62, "neither slow nor fast");
        for larger in [124, 248, 496, 992, 1000] {
            assert!(size.arrived(FAST / 2));
            assert_eq!(size.events(), larger);
        }
        assert!(!size.arrived(FAST / 2));
    }

    #[test]
    fn a_page_is_requested_again_three_times_and_never_without_events() {
        let slow = ClientError::new("bob", Problem::Timeout(Stage::Slow));
        let mut size = PageSize::new(5000, FAST);
        assert_eq!((0..9).take_while(|_| size.failed(&slow, 4 * FAST)).count(), 3);
        let mut size = PageSize::new(3, FAST);
        assert_eq!((0..9).take_while(|_| size.failed(&slow, 4 * FAST)).count(), 1);
        assert_eq!(size.events(), 1);
    }

    /// Pages of this size, without events.
    struct Endless {
        bytes: usize,
        route: Route,
        fetched: Arc<AtomicUsize>,
    }

    impl PageSource for Endless {
        async fn next(&mut self) -> Result<Option<FetchedPage>, ClientError> {
            self.fetched.fetch_add(1, Ordering::SeqCst);
            Ok(Some(FetchedPage {
                events: Vec::new(),
                cursor: Cursor::START,
                bytes: self.bytes,
                total: None,
                route: self.route.clone(),
                verification: Verification::open(),
            }))
        }
    }

    #[tokio::test]
    async fn some_pages_are_fetched_ahead_and_fewer_of_large_ones() {
        let registry = PeerRegistry::default();
        let alice = LocalNara::generate("alice").unwrap();
        let checker = PageChecker {
            events: EventChecker {
                keys: KnownKeys::new(alice, registry.clone()),
                clocks: Arc::new(PeerClocks::new(Arc::new(SystemClock), registry.clone(), false)),
            },
            limit: FAST,
        };
        for (bytes, ahead) in [(LARGE, AHEAD + 2), (LARGE + 1, 3)] {
            let fetched = Arc::new(AtomicUsize::new(0));
            let source = Endless {
                bytes,
                route: Route::to_stranger(&registry, SocketAddr::from(([100, 64, 0, 2], 9632))),
                fetched: fetched.clone(),
            };
            let mut pages = pages_ahead(source, checker.clone());
            for taken in 1..=5 {
                pages.next().await.unwrap().unwrap();
                // The tasks run until all of them wait.
                for _ in 0..100 {
                    yield_now().await;
                }
                assert_eq!(fetched.load(Ordering::SeqCst), taken + ahead);
            }
        }
    }

    #[test]
    fn only_a_slow_page_is_requested_again() {
        let mut size = PageSize::new(5000, FAST);
        for problem in [Stage::Answer, Stage::Dial, Stage::Queue].map(Problem::Timeout) {
            assert!(!size.failed(&ClientError::new("bob", problem), FAST));
        }
    }
}
